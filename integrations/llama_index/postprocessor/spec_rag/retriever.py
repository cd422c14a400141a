"""SpecPCRetriever: compresses the results of another retriever."""

from __future__ import annotations

from typing import Any, Literal

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
from llama_index.postprocessor.spec_rag.compressor import SpecPCCompressor

from spec_rag.compression.retrieval import rank_relevance, similarities
from spec_rag.errors import ConfigError

ScoreSource = Literal["auto", "rank", "none"]


class SpecPCRetriever(BaseRetriever):
    """Retrieves nodes and compresses them for the query. Created by `SpecPCCompressor.wrap`.

    Args:
        retriever: a retriever, or an index.
        compressor: the compressor.
        scores: "auto": the scores of the nodes; ascending scores are distances and become 1 / (1 + distance). "rank":
            the order, best first. "none": no scores.

    Raises:
        ConfigError: (a ValueError) it is not a retriever.
    """

    def __init__(self, retriever: Any, compressor: SpecPCCompressor, scores: ScoreSource = "auto") -> None:
        if not isinstance(retriever, BaseRetriever) and hasattr(retriever, "as_retriever"):
            retriever = retriever.as_retriever()
        if not isinstance(retriever, BaseRetriever):
            raise ConfigError(
                f"retriever={retriever!r:.80} of type {type(retriever).__name__}: give a retriever, such as "
                "index.as_retriever(), or an index."
            )
        if scores not in ("auto", "rank", "none"):
            raise ConfigError(f"scores={scores!r}: must be one of 'auto', 'rank', 'none'.")
        super().__init__(callback_manager=retriever.callback_manager)
        self.retriever = retriever
        self.compressor = compressor if scores != "none" else compressor.with_settings(retrieval=False)
        self.scores = scores

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes = self._scored(self.retriever.retrieve(query_bundle))
        return self.compressor.postprocess_nodes(nodes, query_bundle)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes = self._scored(await self.retriever.aretrieve(query_bundle))
        return await self.compressor.apostprocess_nodes(nodes, query_bundle)

    def _scored(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        """Copies of the nodes with scores; higher is better."""
        node_scores = [node.score for node in nodes]
        if self.scores == "rank":
            scores: list[float] | None = rank_relevance(len(nodes))
        elif self.scores == "auto" and all(score is not None for score in node_scores):
            scores = similarities([score for score in node_scores if score is not None])
        else:
            scores = None
        if scores is None:
            return nodes
        return [NodeWithScore(node=one.node, score=score) for one, score in zip(nodes, scores, strict=True)]


__all__ = ["QueryType", "ScoreSource", "SpecPCRetriever"]
