"""SpecPCCompressor: LlamaIndex's names for `spec_rag.compress`.

Knows nodes, their metadata and their events; what is kept is decided by the core.
"""

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
from spec_rag.handles import document_key, handle_of
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.loading import LoadOptions
from spec_rag.text.documents import without_vectors
from spec_rag.text.messages import question_of
from spec_rag.text.patterns import inline_flags
from spec_rag.utils.cancellation import in_thread

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.tools import FunctionTool
    from llama_index.postprocessor.spec_rag.retriever import ScoreSource, SpecPCRetriever

    from spec_rag.compression.document_draft import Draft
    from spec_rag.results import CompressedDocument
    from spec_rag.text.token_counting import Counter

dispatcher = get_dispatcher(__name__)

HANDLE_KEY = f"{METADATA_KEY}_handle"


class SpecPCCompressor(CompressorSettings, BaseNodePostprocessor):
    """Keeps of the retrieved nodes the sentences that matter for the query, each node for itself.

    Nodes go on as copies with their ids, scores, relationships, metadata and order (unless `order` says otherwise); the
    ones that came in are not changed. Each copy's metadata has one more key, `spec_pc`, hidden from the LLM and the
    embedding model, and without the embedding of a text that was shortened: `{original_tokens, compressed_tokens,
    ratio, draft_model, kept_spans, handle}`, spans being character ranges of the node's text, also where it has been
    through a compressor before, and the handle being for `expand_tool`. `start_char_idx` and `end_char_idx` cover what
    was kept, where they described the node's text. Nodes without text, images among them, go on as they are, in their
    places. Where all nodes fit the budget, their text is not touched. The settings of the compression are the fields of
    CompressionOptions (docs/options.md).

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
    metadata_mode: Annotated[MetadataMode | Literal["none", "llm", "embed", "all"], AfterValidator(MetadataMode)] = (
        MetadataMode.NONE
    )
    """LLM counts the metadata that synthesizers put before the text of each node as part of the budget."""
    show_handle: bool = False
    """Show the handle for expand_tool to the LLM, as `spec_pc_handle` in the metadata."""

    _loaded: Any = PrivateAttr(default=None)

    @field_serializer("keep")
    def _keep_by_name(self, keep: tuple[Any, ...]) -> list[str]:
        for one in keep:
            if callable(one):
                raise ValueError(
                    f"keep={getattr(one, '__name__', one)!r:.80} is a function, which cannot be serialised: give names "
                    "and regular expressions, or leave it out of the dict (exclude={'keep'})."
                )
        return [inline_flags(one) if isinstance(one, re.Pattern) else one for one in keep]

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
        """As LlamaIndex serialises the class."""
        return "SpecPCCompressor"

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Build the compressor from `to_dict()`. Nothing is loaded; index and embedder go in as keywords.

        Raises:
            ValueError: the data would run code from a checkpoint, or a setting is out of range or unknown.
        """
        refuse_remote_code({**data, **dict.fromkeys(kwargs)}, "draft_options")
        return super().from_dict(data, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Settings and names; a draft that was loaded for them is loaded again where it is needed."""
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
            ValueError: there is no query, or the metadata alone is beyond the budget.
            ModelNotFoundError: the draft is not found.
            CancelledError: `cancelled` was set.
        """
        if not nodes:
            return []
        query = _question(query_bundle)
        if not query:
            raise ValueError(
                "Compression is guided by a question, and there is none: call "
                "postprocess_nodes(nodes, query_str='...'), or give a query_bundle with a query_str."
            )
        started = time.perf_counter()
        draft = self.load()
        given = [node for node in nodes if _has_text(node.node)]
        overheads = self._metadata_tokens(given, draft)
        settings = self._settings()
        if any(overheads):
            settings = _beside_metadata(settings, given, sum(overheads), self._counter(draft))
        compression = spec_rag.compress(
            given,
            query,
            draft=draft,
            index=cast(Any, self.index),
            embedder=self.embedder,
            scorer=self.scorer,
            count_with=self.count_with,
            cancelled=cancelled,
            **settings,
        )
        metadata_tokens = {id(node): tokens for node, tokens in zip(given, overheads, strict=True)}
        self.store.remember(compression)
        compressed = iter(compression.documents)  # in the order in which the nodes go on
        kept = []
        for one in nodes:
            if not _has_text(one.node):
                kept.append(one)
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
        """`_postprocess_nodes` in a thread of its own; cancelling the task stops it between two batches of passages."""
        return await in_thread(lambda cancelled: self._postprocess_nodes(nodes, query_bundle, cancelled))

    def with_settings(self, **settings: Any) -> Self:
        """This compressor with other settings, which win; it shares the draft and what is remembered for `expand_tool`.

        A size (max_tokens, ratio or coverage) takes the place of the compressor's, and so does a preset.

        Raises:
            ValidationError: (a ValueError) a setting is out of range or unknown.
        """
        copy = self._changed(settings)
        if copy.draft is self.draft and copy.draft_options == self.draft_options:
            copy._loaded = self._loaded
        return copy

    def wrap(self, retriever: BaseRetriever, scores: ScoreSource = "auto") -> SpecPCRetriever:
        """What this retriever finds, compressed for the query; also of an index, through its own retriever.

        Args:
            retriever: a retriever, or an index.
            scores: what its scores are; see SpecPCRetriever.

        Raises:
            ConfigError: (a ValueError) it is no retriever.
        """
        from llama_index.postprocessor.spec_rag.retriever import SpecPCRetriever

        return SpecPCRetriever(retriever, self, scores)

    def expand_tool(self, max_chars: int | None = 20_000) -> FunctionTool:
        """A tool with which an agent gets the original of a shortened node back, by its handle.

        The handle is in the metadata, `spec_pc["handle"]`; `show_handle=True` lets the LLM see it beside the text. A
        handle that is not known gives the agent a message, not an error.

        Args:
            max_chars: longer texts are cut there, and the agent is told; None cuts none.
        """
        from llama_index.core.tools import FunctionTool

        return FunctionTool.from_defaults(expander(self.store, max_chars), name=EXPAND)

    def load(self) -> Draft:
        """The draft, loaded now if it was not; it stays loaded as long as this compressor lives.

        Raises:
            ModelNotFoundError: the name is not found.
        """
        from spec_rag.compression.document_draft import Draft, needed_depth

        config = CompressionConfig(**self._settings())
        known = cast("Draft | None", self._loaded)
        if known is None or known.loaded_layers < needed_depth(config, known.name, known.total_layers):
            known = self._loaded = Draft.of(self.draft, cast(LoadOptions, self.draft_options), config)
        return known

    def _counter(self, draft: Draft) -> Counter:
        from spec_rag.text.token_counting import token_counter

        return token_counter(self.count_with, draft.tokenizer)

    def _metadata_tokens(self, nodes: list[NodeWithScore], draft: Draft) -> list[int]:
        """Tokens that each node's metadata adds to its text."""
        if self.metadata_mode == MetadataMode.NONE:
            return [0] * len(nodes)
        count = self._counter(draft)
        handle = self._shown(handle_of(document_key(None, ""), []))  # as long as any
        seen = [one.node.model_copy(update={"metadata": {**one.node.metadata, **handle}}) for one in nodes]
        return [
            max(0, count(one.get_content(metadata_mode=MetadataMode(self.metadata_mode))) - count(_text(one)))
            for one in seen
        ]

    def _compressed_node(
        self, given: NodeWithScore, document: CompressedDocument, metadata_tokens: int, draft: str
    ) -> NodeWithScore:
        """A copy of the node with the kept text; what is mutable in the original is not shared where it is changed."""
        node = given.node
        before = node.metadata.get(METADATA_KEY)
        known = before if isinstance(before, dict) else None
        stats = self.store.stats(document, draft, known, self.ellipsis, metadata_tokens)
        is_whole = document.text == document.original_text
        metadata = node.metadata if is_whole else without_vectors(node.metadata)
        copy = node.model_copy(
            update={
                "metadata": {**metadata, METADATA_KEY: stats, **self._shown(stats["handle"])},
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
        return NodeWithScore(node=copy, score=given.score)

    def _shown(self, handle: str) -> dict[str, str]:
        """What of the handle the LLM sees."""
        return {HANDLE_KEY: handle} if self.show_handle else {}


def _question(query_bundle: Any) -> str:
    """The text of a query bundle, which may hold messages or content parts; "" where there is none."""
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


def _beside_metadata(
    settings: dict[str, Any], nodes: list[NodeWithScore], metadata_tokens: int, count: Counter
) -> dict[str, Any]:
    """The settings with the room that the metadata of all nodes leaves to their text.

    Raises:
        ValueError: it leaves none.
    """
    before = sum(count(_text(node.node)) for node in nodes)
    budget = CompressionConfig(**settings).budget_tokens(before + metadata_tokens)
    if budget <= metadata_tokens:
        raise ValueError(
            f"The metadata of {len(nodes)} nodes takes {metadata_tokens} tokens of a budget of {budget}: raise "
            "max_tokens or ratio, retrieve fewer nodes, set excluded_llm_metadata_keys, or use metadata_mode='none'."
        )
    room, least = budget - metadata_tokens, settings["min_tokens"]
    return {**settings, "max_tokens": room, "ratio": None, "min_tokens": None if least is None else min(least, room)}


def _describes(node: BaseNode, text: str) -> bool:
    """Whether the node's offsets are those of its text, and not of one that a transformation has put in its place."""
    start, end = getattr(node, "start_char_idx", None), getattr(node, "end_char_idx", None)
    return start is not None and end is not None and end - start == len(text)


def _with_keys(keys: list[str], *added: str) -> list[str]:
    return [*(key for key in keys if key not in added), *added]
