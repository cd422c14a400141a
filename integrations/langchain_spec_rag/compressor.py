"""SpecPCCompressor: a LangChain document compressor."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from langchain_core.callbacks import Callbacks, adispatch_custom_event, dispatch_custom_event
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableSerializable
from pydantic import ConfigDict

import spec_rag
from langchain_spec_rag.plain_values import name_of, plain, unserializable
from langchain_spec_rag.retriever import QUERY_KEYS, ScoreSource, SpecPCRetriever
from spec_rag.compression.compressor_settings import METADATA_KEY, CompressorSettings
from spec_rag.compression.originals import EXPAND, expander
from spec_rag.errors import ConfigError
from spec_rag.generation.model_settings import OptionsOrDict
from spec_rag.text.documents import is_vector, without_vectors
from spec_rag.utils.cancellation import in_thread
from spec_rag.utils.fail_open import within

if TYPE_CHECKING:
    from langchain_core.tools import StructuredTool

    from spec_rag.report import Compression
    from spec_rag.results import CompressedDocument

DOCUMENTS_KEYS = ("documents", "context", "docs")
EVENT = METADATA_KEY


class SpecPCCompressor(
    CompressorSettings, BaseDocumentCompressor, RunnableSerializable[dict[str, Any], list[Document]]
):
    """Compresses retrieved documents for a question, with a draft model.

    The settings are the fields of CompressionOptions (docs/options.md). By default the default draft keeps whole
    sentences, a quarter of the tokens. Documents within the budget are returned unchanged. Three ways to use it:

        compressor.compress_documents(documents, "Who found the comet?")
        {"documents": retriever, "query": RunnablePassthrough()} | compressor       # also context/docs, question/input
        compressor.wrap(retriever)                                                  # a retriever again

    The results are new documents in the order of the input (unless `order` is set) with the same ids and metadata,
    without embeddings of shortened texts. The metadata key `spec_pc` has original_tokens, compressed_tokens, ratio,
    draft_model, handle (for `expand_tool`) and kept_spans: character ranges in the original text, also after several
    compressions. A `relevance_score` in the metadata is added to the score. Each run is a traced span with the custom
    event "spec_pc": tokens before and after, and seconds of the draft.

    Raises:
        ValidationError: (a ValueError) a setting is out of range, unknown, or contradicts another.

    Calls also raise ModelNotFoundError, ConfigError (empty query, wrong type of document) and PromptTooLongError
    (scoring="joint").
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    draft_options: OptionsOrDict | None = None
    """How the draft is loaded: LoadOptions or a dict of its fields."""
    metadata_format: Literal["nested", "flat", "none"] = "nested"
    """Metadata format: a dict under `spec_pc`, flat keys such as `spec_pc_ratio` that every vector store accepts, or
    none."""

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Names and settings are serialized, weights are not; loaded objects are refused on loading."""
        return True

    def to_json(self) -> Any:
        """Serialize the settings; loads nothing."""
        draft = name_of(self.draft)
        if draft is None:
            return unserializable(self, "with loaded models that have no name")
        if any(callable(rule) for rule in self.keep):
            return unserializable(self, "with a function in keep")
        serialized: dict[str, Any] = dict(super().to_json())
        kwargs = {name: plain(value) for name, value in serialized["kwargs"].items() if name != "originals"}
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
        """Compress documents for a query.

        Args:
            documents: Documents; they are not changed.
            query: the question, or messages that end with it; only text parts are read.
            callbacks: callbacks of the run.
        """
        return self._run.invoke(_inputs(documents, query), self._run_config({"callbacks": callbacks}))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """`compress_documents` in a thread; cancelling the task stops it between two batches of passages."""
        return await self._run.ainvoke(_inputs(documents, query), self._run_config({"callbacks": callbacks}))

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Compress in a chain.

        Args:
            input: a dict with the documents under "documents", "context" or "docs", and the question under "query",
                "question" or "input"; other keys are ignored.
            config: config of the run.
            **kwargs: settings of this call. A size (max_tokens, ratio or coverage) or a preset replaces that of the
                compressor.

        Raises:
            ValueError: documents or query are missing.
        """
        return self._with(kwargs)._run.invoke(_documents_and_query(input), self._run_config(config))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """`invoke` in a thread; cancelling the task stops it between two batches of passages."""
        return await self._with(kwargs)._run.ainvoke(_documents_and_query(input), self._run_config(config))

    def wrap(self, retriever: Runnable[str, list[Document]], scores: ScoreSource = "auto") -> SpecPCRetriever:
        """A retriever that compresses the results of another one.

        Args:
            retriever: a retriever, or another Runnable from a query to Documents.
            scores: type of its scores; see SpecPCRetriever.

        Raises:
            ConfigError: (a ValueError) it is not a retriever.
        """
        if not isinstance(retriever, Runnable):
            raise ConfigError(
                f"retriever={retriever!r:.80} of type {type(retriever).__name__}: give a retriever, such as "
                "vectorstore.as_retriever(), or another Runnable from a query to Documents."
            )
        return SpecPCRetriever(retriever=retriever, compressor=self, scores=scores)

    def expand_tool(self, max_chars: int | None = 20_000) -> StructuredTool:
        """A tool that returns the original of a shortened document by its handle.

        The handle is `spec_pc["handle"]` in the metadata, or `spec_pc_handle` with metadata_format="flat"; show it to
        the model with the text. For an unknown handle the tool returns a message.

        Args:
            max_chars: maximum length of the returned text, with a note where it is cut off; None is unlimited.
        """
        from langchain_core.tools import StructuredTool

        return StructuredTool.from_function(
            expander(self.store, max_chars), name=EXPAND, parse_docstring=True, error_on_invalid_docstring=False
        )

    @property
    def _run(self) -> RunnableLambda[dict[str, Any], list[Document]]:
        return RunnableLambda(self._compress, self._acompress)

    def _run_config(self, config: RunnableConfig | None) -> RunnableConfig:
        config = config or {}
        return {**config, "run_name": config.get("run_name") or self.get_name()}

    def _with(self, settings: Mapping[str, Any]) -> Self:
        return self._changed(settings) if settings else self

    def _compress(self, inputs: dict[str, Any], config: RunnableConfig) -> list[Document]:
        if not inputs["documents"]:
            return []
        try:
            compression = self._compression(inputs, config)
        except Exception as error:
            return self._whole(inputs, error)
        return self._results(compression)

    async def _acompress(self, inputs: dict[str, Any], config: RunnableConfig) -> list[Document]:
        if not inputs["documents"]:
            return []
        try:
            compression = await in_thread(lambda cancelled: self._call(inputs, cancelled))
        except Exception as error:
            return self._whole(inputs, error)
        await adispatch_custom_event(EVENT, _statistics(compression), config=config)
        return self._results(compression)

    def _compression(self, inputs: dict[str, Any], config: RunnableConfig) -> Compression:
        compression = self._call(inputs, inputs.get("cancelled"))
        dispatch_custom_event(EVENT, _statistics(compression), config=config)
        return compression

    def _whole(self, inputs: Mapping[str, Any], error: Exception) -> list[Document]:
        """The documents as they came, after a fault."""
        reason = self._reason(error)
        added = {"nested": {METADATA_KEY: {"not_shortened": reason}}, "none": {}}
        more = added.get(self.metadata_format, {f"{METADATA_KEY}_not_shortened": reason})
        return [one.model_copy(update={"metadata": {**one.metadata, **more}}) for one in inputs["documents"]]

    def _call(self, inputs: Mapping[str, Any], cancelled: threading.Event | None = None) -> Compression:
        def work(cancelled: threading.Event | None) -> Compression:
            return spec_rag.compress(
                inputs["documents"],
                inputs["query"],
                draft=self.draft,
                draft_options=cast(Any, self.draft_options),
                index=cast(Any, self.index),
                embedder=self.embedder,
                scorer=self.scorer,
                count_with=self.count_with,
                cancelled=cancelled,
                **self._settings(),
            )

        return within(work, self.deadline_seconds, cancelled)

    def _results(self, compression: Compression) -> list[Document]:
        self.store.remember(compression)
        kept = [document for document in compression.documents if document.text or self.keep_empty]
        return [self._document(document, compression.draft) for document in kept]

    def _document(self, compressed: CompressedDocument, draft: str) -> Document:
        source: Document = compressed.source
        statistics = self.store.stats(compressed, draft, _earlier_statistics(source.metadata), self.ellipsis)
        added: dict[str, Any] = {}
        if self.metadata_format == "nested":
            added = {METADATA_KEY: statistics}
        elif self.metadata_format == "flat":
            spans_text = ",".join(f"{start}-{end}" for start, end in statistics["kept_spans"])
            added = {f"{METADATA_KEY}_{k}": v for k, v in {**statistics, "kept_spans": spans_text}.items()}
        if compressed.text == source.page_content:
            return source.model_copy(update={"metadata": {**source.metadata, **added}})
        metadata = {**without_vectors(source.metadata), **added}
        return source.model_copy(update={"page_content": compressed.text, "metadata": metadata, **_reset(source)})


def _reset(document: Document) -> dict[str, Any]:
    """Fields of a Document subclass, such as EmbeddingsFilter's, with embeddings of the text reset."""
    fields = {name: value for name, value in document.__dict__.items() if name not in Document.model_fields}
    definitions = type(document).model_fields
    changed = {}
    for name, value in fields.items():
        if is_vector(name, value):
            field = definitions.get(name)
            required = field is None or field.is_required()
            changed[name] = None if required or field is None else field.get_default(call_default_factory=True)
        elif isinstance(value, Mapping):
            changed[name] = without_vectors(value)
    return changed


def _earlier_statistics(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Metadata of an earlier compression, in either format."""
    nested = metadata.get(METADATA_KEY)
    if isinstance(nested, Mapping) and nested.get("kept_spans"):
        return dict(nested)
    flat = metadata.get(f"{METADATA_KEY}_kept_spans")
    if not isinstance(flat, str) or not flat:
        return None
    spans = [tuple(map(int, span.split("-"))) for span in flat.split(",")]
    others = {name: metadata.get(f"{METADATA_KEY}_{name}") for name in ("original_tokens", "handle")}
    return {"kept_spans": spans} | {name: value for name, value in others.items() if value is not None}


def _statistics(compression: Compression) -> dict[str, Any]:
    return {
        "documents": len(compression.documents),
        "tokens_before": compression.tokens_before,
        "tokens_after": compression.tokens_after,
        "ratio": compression.ratio,
        "draft_model": compression.draft,
        "draft_seconds": compression.draft_seconds,
    }


def _inputs(documents: Any, query: Any) -> dict[str, Any]:
    """Inputs of a run, as shown in traces."""
    if isinstance(documents, str) and not isinstance(query, str):
        raise ConfigError(f"documents={documents!r:.80} is a string: give the documents first, then the query.")
    return {"documents": list(documents) if isinstance(documents, list | tuple) else documents, "query": query}


def _documents_and_query(inputs: Any) -> dict[str, Any]:
    if not isinstance(inputs, Mapping):
        raise ValueError(
            f"SpecPCCompressor was invoked with a {type(inputs).__name__}: give a dict, for example "
            '{"documents": retriever, "query": RunnablePassthrough()} | compressor.'
        )
    documents = _first(inputs, DOCUMENTS_KEYS)
    return _inputs(documents, _first(inputs, QUERY_KEYS))


def _first(inputs: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        if inputs.get(key) is not None:
            return inputs[key]
    raise ValueError(
        f"SpecPCCompressor needs one of {', '.join(map(repr, keys))} in its input, which has "
        f"{', '.join(map(repr, inputs)) or 'nothing'}."
    )
