"""SpecPCCompressor: a LlamaIndex node postprocessor."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_serializer
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, ImageNode, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode
from llama_index.llms.spec_rag.load_options import PlainLoadOptions, refuse_remote_code
from llama_index.postprocessor.spec_rag.events import CompressionEvent
from pydantic import AfterValidator, InstanceOf

import spec_rag
from spec_rag.compression.compressor_settings import METADATA_KEY, CompressorSettings, Index, unserialized
from spec_rag.compression.originals import EXPAND, Originals, expander
from spec_rag.errors import ConfigError
from spec_rag.handles import document_key, handle_of
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.loading import LoadOptions
from spec_rag.text.documents import without_vectors
from spec_rag.text.messages import question_of
from spec_rag.text.patterns import inline_flags
from spec_rag.utils.cancellation import in_thread
from spec_rag.utils.fail_open import within

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.tools import FunctionTool
    from llama_index.postprocessor.spec_rag.retriever import ScoreSource, SpecPCRetriever

    from spec_rag.compression.document_draft import Draft
    from spec_rag.results import CompressedDocument
    from spec_rag.text.token_counting import Counter

dispatcher = get_dispatcher(__name__)

HANDLE_KEY = f"{METADATA_KEY}_handle"


def _metadata_mode(given: str) -> MetadataMode:
    return MetadataMode(given)  # the enum itself is no validator: its signature differs between versions of Python


class SpecPCCompressor(CompressorSettings, BaseNodePostprocessor):
    """Compresses retrieved nodes for the query.

    The results are copies with the same ids, scores, relationships, metadata and order (unless `order` is set), without
    embeddings of shortened texts. The metadata key `spec_pc`, hidden from LLM and embedding model, has original_tokens,
    compressed_tokens, ratio, draft_model, handle (for `expand_tool`) and kept_spans: character ranges in the original
    text, also after several compressions. `start_char_idx` and `end_char_idx` enclose the kept text if they described
    the original text. Nodes without text, such as images, and nodes within the budget are returned unchanged. The
    settings are the fields of CompressionOptions (docs/options.md).

    Raises:
        ValidationError: (a ValueError) a setting is out of range or unknown.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    draft_options: PlainLoadOptions | None = Field(default_factory=LoadOptions)
    """How the draft is loaded: LoadOptions or a dict of its fields."""
    index: Index = unserialized("index")
    embedder: Any = unserialized("embedder")
    scorer: Any = unserialized("scorer")
    originals: InstanceOf[Originals] | None = unserialized("originals")
    metadata_mode: Annotated[MetadataMode | Literal["none", "llm", "embed", "all"], AfterValidator(_metadata_mode)] = (
        MetadataMode.NONE
    )
    """LLM counts the metadata that synthesizers put before the text of each node as part of the budget."""
    show_handle: bool = False
    """Show the handle for expand_tool to the LLM, as `spec_pc_handle` in the metadata."""

    _loaded: Any = PrivateAttr(default=None)

    @field_serializer("keep")
    def _keep_by_name(self, keep: tuple[Any, ...]) -> list[str]:
        for rule in keep:
            if callable(rule):
                raise ValueError(
                    f"keep={getattr(rule, '__name__', rule)!r:.80} is a function, which cannot be serialised: give "
                    "names and regular expressions, or leave it out of the dict (exclude={'keep'})."
                )
        return [inline_flags(rule) if isinstance(rule, re.Pattern) else rule for rule in keep]

    @field_serializer("draft")
    def _draft_by_name(self, draft: Any) -> str:
        return draft if isinstance(draft, str) else self.load().name

    @field_serializer("count_with")
    def _count_with_by_name(self, count_with: Any) -> str:
        if isinstance(count_with, str):
            return count_with
        raise ValueError(
            f"count_with={type(count_with).__name__} object cannot be serialised: give a name, or leave it out of the "
            "dict (exclude={'count_with'}) and hand it to from_dict(data, count_with=...)."
        )

    @classmethod
    def class_name(cls) -> str:
        """Name for serialization."""
        return "SpecPCCompressor"

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Build the compressor from `to_dict()`. Nothing is loaded; index and embedder are given as keywords.

        Raises:
            ValueError: the data would run code from a checkpoint, or a setting is out of range or unknown.
        """
        refuse_remote_code({**data, **dict.fromkeys(kwargs)}, "draft_options")
        return super().from_dict(data, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Settings and names; a draft that was loaded by name is loaded again on use."""
        state: dict[str, Any] = dict(super().__getstate__())
        state["__pydantic_private__"] = {**(state.get("__pydantic_private__") or {}), "_loaded": None}
        return state

    def _postprocess_nodes(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None = None,
        cancelled: threading.Event | None = None,
    ) -> list[NodeWithScore]:
        """Compress the text of the nodes for the query.

        Raises:
            ValueError: there is no query, or the metadata exceeds the budget.
            ModelNotFoundError: the draft is not found.
            CancelledError: `cancelled` was set.
        """
        if not nodes:
            return []
        query = _question(query_bundle)
        if not query:
            raise ValueError(
                "There is no query: call postprocess_nodes(nodes, query_str='...'), or give a query_bundle with a "
                "query_str."
            )
        try:
            return within(lambda own: self._compressed_nodes(nodes, query, own), self.deadline_seconds, cancelled)
        except Exception as error:
            reason = self._reason(error)
            return [_with_reason(node, reason) for node in nodes]

    def _compressed_nodes(
        self, nodes: list[NodeWithScore], query: str, cancelled: threading.Event | None
    ) -> list[NodeWithScore]:
        started = time.perf_counter()
        draft = self.load()
        text_nodes = [node for node in nodes if _has_text(node.node)]
        overheads = self._metadata_tokens(text_nodes, draft)
        settings = self._settings()
        if any(overheads):
            settings = _without_metadata(settings, text_nodes, sum(overheads), self._counter(draft))
        compression = spec_rag.compress(
            text_nodes,
            query,
            draft=draft,
            index=cast(Any, self.index),
            embedder=self.embedder,
            scorer=self.scorer,
            count_with=self.count_with,
            cancelled=cancelled,
            **settings,
        )
        metadata_tokens = {id(node): tokens for node, tokens in zip(text_nodes, overheads, strict=True)}
        self.store.remember(compression)
        compressed = iter(compression.documents)  # in the order of the results
        kept = []
        for original in nodes:
            if not _has_text(original.node):
                kept.append(original)
                continue
            document = next(compressed)
            node, overhead = document.source, metadata_tokens[id(document.source)]
            if document.text or self.keep_empty:
                kept.append(self._compressed_node(node, document, overhead, compression.draft))
        dispatcher.event(
            CompressionEvent(
                query=query,
                nodes_before=len(nodes),
                nodes_after=len(kept),
                tokens_before=compression.tokens_before,
                tokens_after=compression.tokens_after,
                budget_tokens=compression.budget_tokens,
                draft=compression.draft,
                draft_seconds=compression.draft_seconds,
                seconds=time.perf_counter() - started,
            )
        )
        return kept

    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """`_postprocess_nodes` in a thread; cancelling the task stops it between two batches of passages."""
        return await in_thread(lambda cancelled: self._postprocess_nodes(nodes, query_bundle, cancelled))

    def with_settings(self, **settings: Any) -> Self:
        """A copy with other settings, and the same draft and originals.

        A size (max_tokens, ratio or coverage) or a preset replaces that of the compressor.

        Raises:
            ValidationError: (a ValueError) a setting is out of range or unknown.
        """
        copy = self._changed(settings)
        if copy.draft is self.draft and copy.draft_options == self.draft_options:
            copy._loaded = self._loaded
        return copy

    def wrap(self, retriever: BaseRetriever, scores: ScoreSource = "auto") -> SpecPCRetriever:
        """A retriever that compresses the results of another one.

        Args:
            retriever: a retriever, or an index.
            scores: type of its scores; see SpecPCRetriever.

        Raises:
            ConfigError: (a ValueError) it is not a retriever.
        """
        from llama_index.postprocessor.spec_rag.retriever import SpecPCRetriever

        return SpecPCRetriever(retriever, self, scores)

    def expand_tool(self, max_chars: int | None = 20_000) -> FunctionTool:
        """A tool that returns the original of a shortened node by its handle.

        The handle is `spec_pc["handle"]` in the metadata; `show_handle=True` shows it to the LLM. For an unknown handle
        the tool returns a message.

        Args:
            max_chars: maximum length of the returned text, with a note where it is cut off; None is unlimited.
        """
        from llama_index.core.tools import FunctionTool

        return FunctionTool.from_defaults(expander(self.store, max_chars), name=EXPAND)

    def load(self) -> Draft:
        """Load the draft unless it is loaded with enough layers.

        Raises:
            ModelNotFoundError: the name is not found.
        """
        from spec_rag.compression.document_draft import Draft, needed_depth

        config = CompressionConfig(**self._settings())
        draft = cast("Draft | None", self._loaded)
        if draft is None or draft.loaded_layers < needed_depth(config, draft.name, draft.total_layers):
            draft = self._loaded = Draft.of(self.draft, cast(LoadOptions, self.draft_options), config)
        return draft

    def _counter(self, draft: Draft) -> Counter:
        from spec_rag.text.token_counting import token_counter

        return token_counter(self.count_with, draft.tokenizer)

    def _metadata_tokens(self, nodes: list[NodeWithScore], draft: Draft) -> list[int]:
        """Tokens of the metadata that is shown with each node."""
        if self.metadata_mode == MetadataMode.NONE:
            return [0] * len(nodes)
        count = self._counter(draft)
        handle = self._shown(handle_of(document_key(None, ""), []))
        shown = [one.node.model_copy(update={"metadata": {**one.node.metadata, **handle}}) for one in nodes]
        return [
            max(0, count(one.get_content(metadata_mode=MetadataMode(self.metadata_mode))) - count(_text(one)))
            for one in shown
        ]

    def _compressed_node(
        self, original: NodeWithScore, document: CompressedDocument, metadata_tokens: int, draft: str
    ) -> NodeWithScore:
        """A copy of the node with the kept text; changed fields are not shared with the original."""
        node = original.node
        earlier = node.metadata.get(METADATA_KEY)
        earlier = earlier if isinstance(earlier, dict) else None
        statistics = self.store.stats(document, draft, earlier, self.ellipsis, metadata_tokens)
        is_whole = document.text == document.original_text
        metadata = node.metadata if is_whole else without_vectors(node.metadata)
        copy = node.model_copy(
            update={
                "metadata": {**metadata, METADATA_KEY: statistics, **self._shown(statistics["handle"])},
                "excluded_llm_metadata_keys": _with_keys(node.excluded_llm_metadata_keys, METADATA_KEY),
                "excluded_embed_metadata_keys": _with_keys(
                    node.excluded_embed_metadata_keys, METADATA_KEY, *self._shown("")
                ),
                "relationships": dict(node.relationships),
                **({} if is_whole else {"embedding": None}),
            }
        )
        if isinstance(copy, Node) and copy.text_resource is not None:  # set_content would lose its MIME type
            changed = {} if is_whole else {"text": document.text, "embeddings": None, "data": None}
            copy.text_resource = copy.text_resource.model_copy(update=changed)
        else:
            copy.set_content(document.text)
        if isinstance(copy, TextNode) and document.spans and _describes(node, document.original_text):
            start = cast(int, copy.start_char_idx)
            copy.start_char_idx = start + document.spans[0][0]
            copy.end_char_idx = start + document.spans[-1][1]
        return NodeWithScore(node=copy, score=original.score)

    def _shown(self, handle: str) -> dict[str, str]:
        """Metadata that shows the handle to the LLM."""
        return {HANDLE_KEY: handle} if self.show_handle else {}


def _with_reason(given: NodeWithScore, reason: str) -> NodeWithScore:
    """A copy of a node that stays whole after a fault."""
    node = given.node
    update = {
        "metadata": {**node.metadata, METADATA_KEY: {"not_shortened": reason}},
        "excluded_llm_metadata_keys": _with_keys(node.excluded_llm_metadata_keys, METADATA_KEY),
        "excluded_embed_metadata_keys": _with_keys(node.excluded_embed_metadata_keys, METADATA_KEY),
    }
    return NodeWithScore(node=node.model_copy(update=update), score=given.score)


def _question(query_bundle: Any) -> str:
    """The text of a query bundle, which may have messages or content parts; "" if there is none."""
    question = "" if query_bundle is None else question_of(query_bundle)
    if question is None:
        raise ValueError(f"query_bundle={query_bundle!r:.80}: give a QueryBundle, a string or chat messages.")
    return question


def _has_text(node: BaseNode) -> bool:
    if isinstance(node, Node):
        return node.text_resource is not None and not (
            node.image_resource or node.audio_resource or node.video_resource
        )
    return isinstance(node, TextNode) and not isinstance(node, ImageNode)


def _text(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.NONE)


def _without_metadata(
    settings: dict[str, Any], nodes: list[NodeWithScore], metadata_tokens: int, count: Counter
) -> dict[str, Any]:
    """Reduce the budget by the tokens of the metadata.

    Raises:
        ValueError: the metadata exceeds the budget.
    """
    before = sum(count(_text(node.node)) for node in nodes)
    budget = CompressionConfig(**settings).budget_tokens(before + metadata_tokens)
    if budget <= metadata_tokens:
        raise ConfigError(
            f"The metadata of {len(nodes)} nodes takes {metadata_tokens} tokens of a budget of {budget}: raise "
            "max_tokens or ratio, retrieve fewer nodes, set excluded_llm_metadata_keys, or use metadata_mode='none'."
        )
    room, minimum = budget - metadata_tokens, settings["min_tokens"]
    minimum = None if minimum is None else min(minimum, room)
    return {**settings, "max_tokens": room, "ratio": None, "min_tokens": minimum}


def _describes(node: BaseNode, text: str) -> bool:
    """Whether the offsets of a node fit its text, which a transformation may have replaced."""
    start, end = getattr(node, "start_char_idx", None), getattr(node, "end_char_idx", None)
    return start is not None and end is not None and end - start == len(text)


def _with_keys(keys: list[str], *added: str) -> list[str]:
    return [*(key for key in keys if key not in added), *added]
