"""SpecPCCompressor: LangChain's names for `spec_rag.compress`, as a document compressor and as a Runnable.

Knows Documents, callbacks and chains; what is kept of a document is the core's decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import Callbacks, adispatch_custom_event, dispatch_custom_event
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableSerializable
from pydantic import ConfigDict, InstanceOf, field_validator, model_validator
from transformers import PreTrainedModel

import spec_rag
from langchain_spec_rag.messages import role_and_content
from langchain_spec_rag.plain_values import Options, name_of, plain, unserializable
from spec_rag.config import CompressionConfig, Scoring, Unit
from spec_rag.compression.index import DocumentIndex
from spec_rag.models.loading import DEFAULT_DRAFT, LoadedModel, ModelPair
from spec_rag.results import CompressedDocument, Compression

DOCUMENTS_KEYS = ("documents", "context", "docs")
QUERY_KEYS = ("query", "question", "input")
EVENT = "spec_pc"


class SpecPCCompressor(BaseDocumentCompressor, RunnableSerializable[dict[str, Any], list[Document]]):
    """Keeps of retrieved documents what matters for the question, as a small draft model reads them.

    Works without arguments: the default draft keeps whole sentences, a quarter of the tokens. What fits the budget
    passes through untouched, without a draft call. Three ways to use it:

        compressor.compress_documents(documents, "Who found the comet?")
        {"documents": retriever, "query": RunnablePassthrough()} | compressor       # also context/docs, question/input
        compressor.wrap(retriever)                                                  # a retriever again

    The documents that come out are new ones, in the order in which they came in, with their ids and metadata and, under
    the key `spec_pc`, original_tokens, compressed_tokens, ratio, draft_model and kept_spans (character ranges in the
    original text). A `relevance_score` in the metadata takes part in the choice. Each run is a traced span that sends
    the custom event "spec_pc" with the tokens before and after and the draft's seconds.

    Args:
        draft: the model that reads: hub id, folder, GGUF file, or a loaded model or ModelPair.
        draft_options: how to load it: LoadOptions or a dict of its fields.
        index: a spec_rag.DocumentIndex, where documents read before are kept for the next question.
        embeddings: an embedding model whose similarities take part.
        count_with: what the budget's tokens are: "draft", a tokenizer, a tiktoken or OpenAI model name, a function.
        max_tokens: keep at most so many tokens of all documents together.
        ratio: keep at most this share of the tokens, above 0 and at most 1; a quarter if no budget is given.
        coverage: keep the fewest units that carry this share of the importance, above 0 and at most 1.
        scoring: "per_document" or "joint" (one prompt of all documents, as in the paper).
        unit: "sentence", "token" or "document".
        language: of the documents, as ISO 639 code, for splitting sentences.
        contrast, likelihood, links, retrieval: parts of the per-document score; see spec_rag's CompressionConfig.
        calibration: which heads of the draft to trust: None, "shipped", or a file that `spec-rag calibrate` wrote.
        ellipsis: what stands where text was dropped inside a document.
        keep_empty: False leaves out documents of which nothing was kept; True returns them with empty text, so that
            there is one document out for each that went in.

    Raises:
        ValidationError: (a ValueError) a setting is out of range, unknown, or contradicts another.

    When called, besides: ModelNotFoundError, ConfigError (the query is empty, a document is of another kind),
    PromptTooLongError (scoring="joint").
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    draft: Any = DEFAULT_DRAFT
    draft_options: Options | None = None
    index: InstanceOf[DocumentIndex] | None = None
    embeddings: Embeddings | None = None
    count_with: Any = "draft"
    max_tokens: int | None = None
    ratio: float | None = None
    coverage: float | None = None
    scoring: Scoring = "per_document"
    unit: Unit = "sentence"
    language: str = "en"
    contrast: bool = True
    likelihood: bool = True
    links: bool = True
    retrieval: bool = True
    calibration: str | None = None
    ellipsis: str = CompressionConfig.ellipsis
    keep_empty: bool = False

    @field_validator("draft")
    @classmethod
    def _check_draft(cls, draft: Any) -> Any:
        if isinstance(draft, str | Path | ModelPair | LoadedModel | PreTrainedModel):
            return draft
        raise ValueError(f"draft of type {type(draft).__name__}: give a name, a path, or a loaded model or ModelPair.")

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        CompressionConfig.from_dict(self._settings())
        return self

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Names and settings are written, weights never; loaded objects are refused on loading."""
        return True

    def to_json(self) -> Any:
        """The settings as LangChain serialises them; loads nothing."""
        draft = name_of(self.draft)
        if draft is None:
            return unserializable(self)
        serialized: dict[str, Any] = dict(super().to_json())
        kwargs = {name: plain(value) for name, value in serialized["kwargs"].items()}
        return {**serialized, "kwargs": {**kwargs, "draft": draft}}

    @property
    def InputType(self) -> Any:
        """A dict with the documents and the query."""
        return dict[str, Any]

    @property
    def OutputType(self) -> Any:
        """The compressed documents."""
        return list[Document]

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Keep of the documents what matters for the query.

        Args:
            documents: Documents, which are not changed.
            query: the question, or a chat history whose last turns are the question.
            callbacks: told of the run.
        """
        return self._run.invoke((documents, query), self._run_config({"callbacks": callbacks}))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """`compress_documents` in a thread."""
        return await self._run.ainvoke((documents, query), self._run_config({"callbacks": callbacks}))

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Compress in a chain.

        Args:
            input: a dict with the documents under "documents", "context" or "docs", and the question under "query",
                "question" or "input"; other keys are left alone.
            config: of the run.
            **kwargs: settings of this call alone.

        Raises:
            ValueError: documents or query are missing.
        """
        return self._with(kwargs)._run.invoke(_documents_and_query(input), self._run_config(config))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """`invoke` in a thread."""
        return await self._with(kwargs)._run.ainvoke(_documents_and_query(input), self._run_config(config))

    def wrap(self, retriever: Runnable[str, list[Document]]) -> Any:
        """A SpecPCRetriever: what this retriever finds, compressed for the query."""
        from langchain_spec_rag.retriever import SpecPCRetriever

        return SpecPCRetriever(retriever=retriever, compressor=self)

    @property
    def _run(self) -> RunnableLambda[tuple[Sequence[Document], Any], list[Document]]:
        return RunnableLambda(self._compress, self._acompress)

    def _run_config(self, config: RunnableConfig | None) -> RunnableConfig:
        config = config or {}
        return {**config, "run_name": config.get("run_name") or self.get_name()}

    def _with(self, settings: Mapping[str, Any]) -> Self:
        if not settings:
            return self
        current = {name: value for name, value in self.__dict__.items() if name in type(self).model_fields}
        return type(self)(**{**current, **settings})

    def _settings(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(CompressionConfig)}

    def _compress(self, given: tuple[Sequence[Document], Any], config: RunnableConfig) -> list[Document]:
        documents, query = given
        if not documents:
            return []
        compression = self._call(documents, query)
        dispatch_custom_event(EVENT, _figures(compression), config=config)
        return self._results(compression)

    async def _acompress(self, given: tuple[Sequence[Document], Any], config: RunnableConfig) -> list[Document]:
        documents, query = given
        if not documents:
            return []
        compression = await asyncio.to_thread(self._call, documents, query)
        await adispatch_custom_event(EVENT, _figures(compression), config=config)
        return self._results(compression)

    def _call(self, documents: Sequence[Document], query: Any) -> Compression:
        return spec_rag.compress(
            list(documents),
            query if isinstance(query, str) else [role_and_content(message) for message in query],
            draft=str(self.draft) if isinstance(self.draft, Path) else self.draft,
            draft_options=self.draft_options,
            index=self.index,
            embedder=self.embeddings,
            count_with=self.count_with,
            **self._settings(),
        )

    def _results(self, compression: Compression) -> list[Document]:
        kept = [one for one in compression.documents if one.text or self.keep_empty]
        return [_document(one, compression.draft) for one in kept]


def _document(compressed: CompressedDocument, draft: str) -> Document:
    before, after = compressed.tokens_before, compressed.tokens_after
    figures = {
        "original_tokens": before,
        "compressed_tokens": after,
        "ratio": after / before if before else 1.0,
        "draft_model": draft,
        "kept_spans": [list(span) for span in compressed.spans],
    }
    source: Document = compressed.source
    metadata = {**source.metadata, "spec_pc": figures}
    return source.model_copy(update={"page_content": compressed.text, "metadata": metadata})


def _figures(compression: Compression) -> dict[str, Any]:
    return {
        "documents": len(compression.documents),
        "tokens_before": compression.tokens_before,
        "tokens_after": compression.tokens_after,
        "ratio": compression.ratio,
        "draft_model": compression.draft,
        "draft_seconds": compression.draft_seconds,
    }


def _documents_and_query(given: Any) -> tuple[Sequence[Document], Any]:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"SpecPCCompressor was invoked with a {type(given).__name__}: give a dict, for example "
            '{"documents": retriever, "query": RunnablePassthrough()} | compressor.'
        )
    documents = _first(given, DOCUMENTS_KEYS)
    query = _first(given, QUERY_KEYS)
    if isinstance(query, PromptValue):
        query = query.to_messages()
    if isinstance(query, BaseMessage):
        query = [query]
    return documents, query


def _first(given: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        if given.get(key) is not None:
            return given[key]
    raise ValueError(
        f"SpecPCCompressor found none of {', '.join(map(repr, keys))} in its input, which has "
        f"{', '.join(map(repr, given)) or 'nothing'}."
    )
