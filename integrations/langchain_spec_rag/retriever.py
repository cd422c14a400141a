"""SpecPCRetriever: what another retriever finds, with the scores that its store has, through a compressor.

Needs langchain-core alone. How documents are compressed is the compressor's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import ConfigDict

from spec_rag.compression.retrieval import rank_relevance, similarities
from spec_rag.errors import ConfigError
from spec_rag.text.messages import question_of

QUERY_KEYS = ("query", "question", "input")
_DISTANCE_STORES = {"FAISS", "Chroma", "PGVector", "SQLiteVec", "LanceDB", "Redis", "Annoy"}  # lower is better
ScoreSource = Literal["auto", "rank", "none"]


class SpecPCRetriever(BaseRetriever):
    """Retrieves with one retriever and compresses what it finds for the query. Made by `SpecPCCompressor.wrap`."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    retriever: Any
    """Any Runnable from a query, or from a dict with it, to Documents: a retriever, or a chain such as that of
    create_history_aware_retriever. What `invoke` is given besides the query goes to it."""
    compressor: BaseDocumentCompressor
    """What compresses."""
    scores: ScoreSource = "auto"
    """What the retriever's scores are, which then stand in the metadata as `relevance_score` and take part: "auto"
    takes those of a vector store, of which a distance becomes 1 / (1 + distance), and the ranks of an
    EnsembleRetriever; "rank" takes the order, best first; "none" takes nothing. A `relevance_score` that is there
    already, such as a reranker's, is left."""

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """As far as the retriever inside is."""
        return True

    @property
    def _uses_scores(self) -> bool:
        return bool(getattr(self.compressor, "retrieval", True))

    def _scored_retriever(self) -> Any:
        """The retriever, which tells the scores of its store where it has one."""
        wanted = self.scores == "auto" and self._uses_scores
        if wanted and type(self.retriever) is VectorStoreRetriever and self.retriever.search_type != "mmr":
            return ScoringVectorStoreRetriever.of(self.retriever)
        return self.retriever

    def _ranked(self, found: list[Document]) -> list[Document]:
        """Documents with their ranks as scores, where only their order says anything."""
        fuses_ranks = any(base.__name__ == "EnsembleRetriever" for base in type(self.retriever).__mro__)
        if not self._uses_scores or not (self.scores == "rank" or (self.scores == "auto" and fuses_ranks)):
            return found
        return _with_scores(found, rank_relevance(len(found)))

    def _get_relevant_documents(
        self, query: Any, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        question = _question(query)
        retriever = self._scored_retriever()
        config: RunnableConfig = {"callbacks": run_manager.get_child("retrieve")}
        found = self._ranked(retriever.invoke(self._searched(query, question), config, **kwargs))
        return list(self.compressor.compress_documents(found, question, callbacks=run_manager.get_child("compress")))

    async def _aget_relevant_documents(
        self, query: Any, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        question = _question(query)
        retriever = self._scored_retriever()
        config: RunnableConfig = {"callbacks": run_manager.get_child("retrieve")}
        found = self._ranked(await retriever.ainvoke(self._searched(query, question), config, **kwargs))
        compress = self.compressor.acompress_documents
        return list(await compress(found, question, callbacks=run_manager.get_child("compress")))

    def _searched(self, query: Any, question: str) -> Any:
        """What the retriever is given: the input as it is, but a string where it takes nothing else."""
        takes_strings = isinstance(self.retriever, BaseRetriever) and not isinstance(self.retriever, SpecPCRetriever)
        return question if takes_strings and not isinstance(query, str) else query


def _question(query: Any) -> str:
    """The question in a retriever's input: a string, messages, content parts, or a chain's dict with a chat history.

    Raises:
        ConfigError: (a ValueError) there is none.
    """
    asked = query
    if isinstance(query, Mapping) and "role" not in query and not isinstance(query.get("type"), str):
        asked = next((query[key] for key in QUERY_KEYS if query.get(key)), None)
        if isinstance(asked, str) and isinstance(query.get("chat_history"), list | tuple):
            asked = [*query["chat_history"], ("user", asked)]
    question = question_of(asked)
    if question is None:
        raise ConfigError(
            f"query={query!r:.80} of type {type(query).__name__}: give a string, chat messages, or a dict with the "
            f"question under {', '.join(map(repr, QUERY_KEYS))}."
        )
    return question


class ScoringVectorStoreRetriever(VectorStoreRetriever):
    """A vector store's retriever that tells the scores: `relevance_score` in the metadata, higher is better."""

    @classmethod
    def of(cls, retriever: VectorStoreRetriever) -> Self:
        """The same search in the same store, under the same name."""
        own = {name: getattr(retriever, name) for name in VectorStoreRetriever.model_fields}
        return cls(**{**own, "name": retriever.get_name()})

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        wanted = self.search_kwargs | kwargs
        try:
            if self.search_type == "similarity":
                return self._told(self.vectorstore.similarity_search_with_score(query, **wanted))
            return _scored(self.vectorstore.similarity_search_with_relevance_scores(query, **wanted))
        except NotImplementedError:  # the store has no scores to tell
            return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        wanted = self.search_kwargs | kwargs
        try:
            if self.search_type == "similarity":
                return self._told(await self.vectorstore.asimilarity_search_with_score(query, **wanted))
            return _scored(await self.vectorstore.asimilarity_search_with_relevance_scores(query, **wanted))
        except NotImplementedError:
            return await super()._aget_relevant_documents(query, run_manager=run_manager, **kwargs)

    def _told(self, found: Sequence[tuple[Document, float]]) -> list[Document]:
        """Documents with the scores of the store, of which many give distances."""
        store = self.vectorstore
        named = {base.__name__ for base in type(store).__mro__} & _DISTANCE_STORES
        by_product = "PRODUCT" in str(getattr(store, "distance_strategy", "")).upper()
        return _scored(found, are_distances=bool(named) and not by_product)


def _scored(found: Sequence[tuple[Document, float]], are_distances: bool = False) -> list[Document]:
    documents = [document for document, _ in found]
    return _with_scores(documents, similarities([float(score) for _, score in found], are_distances=are_distances))


def _with_scores(documents: list[Document], scores: Sequence[float] | None) -> list[Document]:
    """Copies with their scores; what has a score of its own, such as a reranker's, keeps it."""
    if scores is None or any("relevance_score" in document.metadata for document in documents):
        return documents
    return [
        document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
        for document, score in zip(documents, scores, strict=True)
    ]
