"""Settings of a document compressor, shared by the compressors of the adapters."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from annotated_types import Gt
from pydantic import AfterValidator, ConfigDict, Field, InstanceOf, PrivateAttr, field_validator, model_validator

from spec_rag.citations import Citation, citations_in
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.compression.originals import Originals
from spec_rag.errors import unknown_field
from spec_rag.options.compression import CompressionConfig, CompressionOptions
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.options.presets import with_preset
from spec_rag.options.tool_results import OnError
from spec_rag.utils.fail_open import fault_reason, is_fault
from spec_rag.utils.forking import new_lock

logger = logging.getLogger(__name__)
METADATA_KEY = "spec_pc"
OTHER_NAMES = {"embeddings": "embedder", "embed_model": "embedder"}
"""Other accepted names of fields."""
Index = Annotated[InstanceOf[DocumentIndex] | str | Path | None, AfterValidator(DocumentIndex.of)]
_store_lock = new_lock()


class CompressorSettings(CompressionOptions):
    """The draft, the scorers, the budget's unit, and the store of originals of an adapter's compressor."""

    model_config = ConfigDict(arbitrary_types_allowed=True, use_attribute_docstrings=True)

    draft: Any = DEFAULT_DRAFT
    """The draft model: hub id, folder, GGUF file, or a loaded model or ModelPair."""
    index: Index = None
    """Cache of encoded documents for later questions: a DocumentIndex, or the path of its folder."""
    embedder: Any = None
    """An embedding model of the framework, or a function from texts to vectors, whose similarities are added."""
    scorer: Any = None
    """A reranker or cross-encoder, or a function; its order is added to the score (docs/scorers.md)."""
    count_with: Any = "draft"
    """What counts the budget's tokens: "draft", a tokenizer, a tiktoken or OpenAI model name, or a function."""
    keep_empty: bool = False
    """Also return documents of which nothing was kept, with empty text."""
    originals: InstanceOf[Originals] | None = None
    """Store in which `expand_tool` finds documents by their `handle`; None is an own store of at most 64 MiB."""

    on_error: OnError = "original"
    """After a fault, such as a draft out of memory: "original" returns the documents whole, with the reason as
    `not_shortened` in `spec_pc`; "raise" raises it. Wrong arguments always raise."""
    deadline_seconds: Annotated[float, Gt(0)] | None = None
    """Seconds of a call, after which it is a fault; None waits."""

    if TYPE_CHECKING:  # other accepted names
        embeddings: Any = None
        embed_model: Any = None

    _own_originals: Originals | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _read_names(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = {OTHER_NAMES.get(name, name): value for name, value in values.items()}
        values = {**with_preset(values), "preset": values.get("preset")}
        for name in values:
            if name not in cls.model_fields and name != "class_name":
                raise unknown_field(cls.__name__, name, cls.model_fields)
        return values

    @field_validator("draft")
    @classmethod
    def _check_draft(cls, draft: Any) -> Any:
        # checked by attributes, so that a name does not import transformers
        attributes = ("get_decoder", "model", "draft_name")
        if isinstance(draft, str | Path):
            return str(draft)
        if any(hasattr(draft, name) for name in attributes):
            return draft
        raise ValueError(f"draft of type {type(draft).__name__}: give a name, a path, or a loaded model or ModelPair.")

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        CompressionConfig.from_dict(self._settings())
        return self

    @property
    def store(self) -> Originals:
        """The store of the documents that this compressor shortened."""
        if self.originals is not None:
            return self.originals
        with _store_lock:
            if self._own_originals is None:
                self._own_originals = Originals()
            return self._own_originals

    def citations(self, documents: Sequence[Any]) -> list[Citation]:
        """The kept pieces of documents that this compressor shortened, or of chunks of them.

        Character ranges refer to the file if the metadata says where the document begins in it (`start_index`,
        `start_char_idx`), else to the document's text before compression.
        """
        return citations_in(documents, self.store)

    def _reason(self, error: Exception) -> str:
        """Why documents stay whole after a fault, also logged; raises what `on_error` does not cover."""
        if self.on_error == "raise" or not is_fault(error):
            raise error
        reason = fault_reason(error)
        logger.warning("Documents are returned whole: %s. on_error='raise' raises it.", reason, exc_info=error)
        return reason

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in CompressionConfig.model_fields}

    def _changed(self, settings: Mapping[str, Any]) -> Self:
        """A copy with other settings and the same store."""
        current = {name: value for name, value in self.__dict__.items() if name in type(self).model_fields}
        changes = {OTHER_NAMES.get(name, name): value for name, value in settings.items()}
        return type(self)(**CompressionConfig.overridden({**current, "originals": self.store}, changes))


def unserialized(name: str) -> Any:
    """A field of CompressorSettings that is excluded from serialization and repr."""
    field = CompressorSettings.model_fields[name]
    return Field(default=None, exclude=True, repr=False, description=field.description)
