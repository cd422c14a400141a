"""SpecPCRetriever: compresses the results of another retriever, using the scores of its vector store."""

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
    """Retrieves documents and compresses them for the query. Created by `SpecPCCompressor.wrap`."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    retriever: Any
    """A Runnable from a query, or a dict with it, to Documents: a retriever, or a chain such as that of
    create_history_aware_retriever. It receives the other arguments of `invoke`."""
    compressor: BaseDocumentCompressor
    """The compressor."""
    scores: ScoreSource = "auto"
    """Scores that are stored as `relevance_score` in the metadata and added to the score. "auto": scores of a vector
    store (a distance becomes 1 / (1 + distance)), and ranks of an EnsembleRetriever. "rank": the order, best first.
    "none": no scores. An existing `relevance_score`, such as a reranker's, is kept."""

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether it can be serialized depends on the inner retriever."""
        return True

    @property
    def _uses_scores(self) -> bool:
        return bool(getattr(self.compressor, "retrieval", True))

    def _scored_retriever(self) -> Any:
        """The retriever, with the scores of its vector store if it has one."""
        uses_store = self.scores == "auto" and self._uses_scores
        if uses_store and type(self.retriever) is VectorStoreRetriever and self.retriever.search_type != "mmr":
            return ScoringVectorStoreRetriever.of(self.retriever)
        return self.retriever

    def _ranked(self, documents: list[Document]) -> list[Document]:
        """Use the ranks as scores if the retriever has no scores."""
        fuses_ranks = any(base.__name__ == "EnsembleRetriever" for base in type(self.retriever).__mro__)
        if not self._uses_scores or not (self.scores == "rank" or (self.scores == "auto" and fuses_ranks)):
            return documents
        return _with_scores(documents, rank_relevance(len(documents)))

    def _get_relevant_documents(
        self, query: Any, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        question = _question(query)
        retriever = self._scored_retriever()
        config: RunnableConfig = {"callbacks": run_manager.get_child("retrieve")}
        documents = self._ranked(retriever.invoke(self._searched(query, question), config, **kwargs))
        return list(
            self.compressor.compress_documents(documents, question, callbacks=run_manager.get_child("compress"))
        )

    async def _aget_relevant_documents(
        self, query: Any, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        question = _question(query)
        retriever = self._scored_retriever()
        config: RunnableConfig = {"callbacks": run_manager.get_child("retrieve")}
        documents = self._ranked(await retriever.ainvoke(self._searched(query, question), config, **kwargs))
        compress = self.compressor.acompress_documents
        return list(await compress(documents, question, callbacks=run_manager.get_child("compress")))

    def _searched(self, query: Any, question: str) -> Any:
        """Input of the retriever: unchanged, or the question for retrievers that accept only strings."""
        takes_strings = isinstance(self.retriever, BaseRetriever) and not isinstance(self.retriever, SpecPCRetriever)
        return question if takes_strings and not isinstance(query, str) else query


def _question(query: Any) -> str:
    """The question in a string, messages, content parts, or a dict with a chat history.

    Raises:
        ConfigError: (a ValueError) there is no question.
    """
    value = query
    if isinstance(query, Mapping) and "role" not in query and not isinstance(query.get("type"), str):
        value = next((query[key] for key in QUERY_KEYS if query.get(key)), None)
        if isinstance(value, str) and isinstance(query.get("chat_history"), list | tuple):
            value = [*query["chat_history"], ("user", value)]
    question = question_of(value)
    if question is None:
        raise ConfigError(
            f"query={query!r:.80} of type {type(query).__name__}: give a string, chat messages, or a dict with the "
            f"question under {', '.join(map(repr, QUERY_KEYS))}."
        )
    return question


class ScoringVectorStoreRetriever(VectorStoreRetriever):
    """A vector store retriever that stores scores as `relevance_score` in the metadata; higher is better."""

    @classmethod
    def of(cls, retriever: VectorStoreRetriever) -> Self:
        """A copy of the retriever."""
        fields = {name: getattr(retriever, name) for name in VectorStoreRetriever.model_fields}
        return cls(**{**fields, "name": retriever.get_name()})

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        arguments = self.search_kwargs | kwargs
        try:
            if self.search_type == "similarity":
                return self._similar(self.vectorstore.similarity_search_with_score(query, **arguments))
            return _scored(self.vectorstore.similarity_search_with_relevance_scores(query, **arguments))
        except NotImplementedError:  # the store has no scores
            return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        arguments = self.search_kwargs | kwargs
        try:
            if self.search_type == "similarity":
                return self._similar(await self.vectorstore.asimilarity_search_with_score(query, **arguments))
            return _scored(await self.vectorstore.asimilarity_search_with_relevance_scores(query, **arguments))
        except NotImplementedError:
            return await super()._aget_relevant_documents(query, run_manager=run_manager, **kwargs)

    def _similar(self, results: Sequence[tuple[Document, float]]) -> list[Document]:
        """Documents with similarities; many stores return distances."""
        store = self.vectorstore
        has_distances = {base.__name__ for base in type(store).__mro__} & _DISTANCE_STORES
        by_product = "PRODUCT" in str(getattr(store, "distance_strategy", "")).upper()
        return _scored(results, are_distances=bool(has_distances) and not by_product)


def _scored(results: Sequence[tuple[Document, float]], are_distances: bool = False) -> list[Document]:
    documents = [document for document, _ in results]
    return _with_scores(documents, similarities([float(score) for _, score in results], are_distances=are_distances))


def _with_scores(documents: list[Document], scores: Sequence[float] | None) -> list[Document]:
    """Copies with scores; existing scores, such as a reranker's, are kept."""
    if scores is None or any("relevance_score" in document.metadata for document in documents):
        return documents
    return [
        document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
        for document, score in zip(documents, scores, strict=True)
    ]
