"""The retriever that `SpecPCCompressor.wrap` makes, and the compressor in LangChain's own retrievers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from integrations.langchain.helpers import PLAIN_TEMPLATE, Watching, documents, tiny_pair
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import collect_runs
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_spec_rag import SpecPCCompressor, SpecPCRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from spec_rag.models.model_pair import ModelPair

_PAIR = tiny_pair(PLAIN_TEMPLATE)
QUERY = "Who was the mule?"


def vector_retriever(k: int = 3) -> BaseRetriever:
    store = InMemoryVectorStore.from_documents(documents(), DeterministicFakeEmbedding(size=8))
    return store.as_retriever(search_kwargs={"k": k})


class TestSpecPCRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> Callable[..., SpecPCRetriever]:  # type: ignore[override]
        compressor = SpecPCCompressor(draft=_PAIR, ratio=0.5, keep_empty=True)
        return lambda k=3: compressor.wrap(vector_retriever(k))

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {}

    @property
    def retriever_query_example(self) -> str:
        return QUERY


@pytest.fixture
def compressor(pair: ModelPair) -> SpecPCCompressor:
    return SpecPCCompressor(draft=pair, ratio=0.4, retrieval=False)


async def test_wrapped_retriever_gives_compressed_documents(compressor: SpecPCCompressor) -> None:
    plain = vector_retriever()
    expected = compressor.compress_documents(plain.invoke(QUERY), QUERY)
    assert compressor.wrap(plain).invoke(QUERY) == expected
    assert await compressor.wrap(plain).ainvoke(QUERY) == expected


class TestRetrievalScores:
    """What the store said of its results takes part in what is kept."""

    @staticmethod
    def given(monkeypatch: pytest.MonkeyPatch, retriever: Any, scores: Any = "auto", **fields: Any) -> list[Any]:
        """The scores with which documents reach the compressor."""
        seen: list[Any] = []

        def compress(self: Any, found: list[Document], query: str, callbacks: Any = None) -> list[Document]:
            seen.extend(document.metadata.get("relevance_score") for document in found)
            return found

        monkeypatch.setattr(SpecPCCompressor, "compress_documents", compress)
        SpecPCCompressor(draft=_PAIR, **fields).wrap(retriever, scores=scores).invoke(QUERY)
        return seen

    def test_the_scores_of_a_vector_store_are_the_stores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = vector_retriever()
        store = plain.vectorstore  # type: ignore[attr-defined]
        expected = [score for _, score in store.similarity_search_with_score(QUERY, k=3)]
        assert self.given(monkeypatch, plain) == pytest.approx(expected)
        assert len(set(expected)) > 1

    def test_distances_are_turned_round(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Distances(InMemoryVectorStore):
            def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Any:
                found = super().similarity_search_with_score(query, k, **kwargs)
                return [(document, 1 - similarity) for document, similarity in found]

        store = Distances.from_documents(documents(), DeterministicFakeEmbedding(size=8))
        given = self.given(monkeypatch, store.as_retriever(search_kwargs={"k": 3}))
        assert given == sorted(given, reverse=True)
        assert len(set(given)) > 1

    def test_one_result_without_a_finite_score_leaves_the_others_theirs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Holed(InMemoryVectorStore):
            def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Any:
                return list(zip(documents()[:3], (0.9, math.nan, 0.2), strict=True))

        store = Holed.from_documents(documents(), DeterministicFakeEmbedding(size=8))
        given = self.given(monkeypatch, store.as_retriever(search_kwargs={"k": 3}))
        assert given == pytest.approx([0.9, math.nan, 0.2], nan_ok=True)

    def test_a_threshold_search_keeps_its_threshold(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Relevance(InMemoryVectorStore):
            def _select_relevance_score_fn(self) -> Callable[[float], float]:
                return lambda similarity: (1 + similarity) / 2

        store = Relevance.from_documents(documents(), DeterministicFakeEmbedding(size=8))
        best = store.similarity_search_with_relevance_scores(QUERY, k=3)
        threshold = (best[0][1] + best[1][1]) / 2
        retriever = store.as_retriever(
            search_type="similarity_score_threshold", search_kwargs={"k": 3, "score_threshold": threshold}
        )
        assert self.given(monkeypatch, retriever) == pytest.approx([best[0][1]])

    def test_results_chosen_for_variety_have_no_scores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = InMemoryVectorStore.from_documents(documents(), DeterministicFakeEmbedding(size=8))
        retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 3})
        assert self.given(monkeypatch, retriever) == [None] * 3

    def test_a_store_without_scores_is_asked_without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Silent(InMemoryVectorStore):
            def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Any:
                raise NotImplementedError

            def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
                return documents()[:k]

        store = Silent.from_documents(documents(), DeterministicFakeEmbedding(size=8))
        assert self.given(monkeypatch, store.as_retriever(search_kwargs={"k": 2})) == [None] * 2

    def test_an_ensemble_gives_ranks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ensembles = pytest.importorskip("langchain_classic.retrievers")
        retriever = ensembles.EnsembleRetriever(retrievers=[vector_retriever(), vector_retriever()])
        assert self.given(monkeypatch, retriever) == [1, 1 / 2, 1 / 3]

    def test_ranks_where_wanted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = RunnableLambda(lambda query: documents()[:2])
        assert self.given(monkeypatch, found) == [None, None]
        assert self.given(monkeypatch, found, scores="rank") == [1, 1 / 2]

    @pytest.mark.parametrize("options", [{"scores": "none"}, {"retrieval": False}], ids=str)
    def test_none_where_not_wanted(self, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
        assert self.given(monkeypatch, vector_retriever(), **options) == [None] * 3

    def test_a_rerankers_scores_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reranked = [Document("a", metadata={"relevance_score": 0.2}), Document("b", metadata={"relevance_score": 0.9})]
        assert self.given(monkeypatch, RunnableLambda(lambda query: reranked), scores="rank") == [0.2, 0.9]

    async def test_scores_change_what_is_kept_and_reach_no_store(self, pair: ModelPair) -> None:
        compressor = SpecPCCompressor(draft=pair, ratio=0.4, title_links=False)
        store = InMemoryVectorStore.from_documents(documents(), DeterministicFakeEmbedding(size=8))
        wrapped = compressor.wrap(store.as_retriever(search_kwargs={"k": 3}))
        found = store.similarity_search_with_score(QUERY, k=3)
        scored = [d.model_copy(update={"metadata": {**d.metadata, "relevance_score": s}}) for d, s in found]
        expected = compressor.compress_documents(scored, QUERY)
        assert [d.page_content for d in wrapped.invoke(QUERY)] == [d.page_content for d in expected]
        assert [d.page_content for d in await wrapped.ainvoke(QUERY)] == [d.page_content for d in expected]
        assert all("relevance_score" not in document["metadata"] for document in store.store.values())


def test_any_runnable_that_finds_documents_can_be_wrapped(compressor: SpecPCCompressor, docs: list[Document]) -> None:
    assert compressor.wrap(RunnableLambda(lambda query: docs)).invoke(QUERY)


def test_both_steps_are_traced_under_the_retriever(compressor: SpecPCCompressor) -> None:
    with collect_runs() as runs:
        compressor.wrap(vector_retriever()).invoke(QUERY)
    (run,) = runs.traced_runs
    assert [child.name for child in run.child_runs] == ["VectorStoreRetriever", "SpecPCCompressor"]


class TestLangChainClassic:
    def test_contextual_compression_retriever(self, compressor: SpecPCCompressor) -> None:
        retrievers = pytest.importorskip("langchain_classic.retrievers.contextual_compression")
        watching = Watching()
        retriever = retrievers.ContextualCompressionRetriever(
            base_compressor=compressor, base_retriever=vector_retriever()
        )
        assert retriever.invoke(QUERY, {"callbacks": [watching]}) == compressor.wrap(vector_retriever()).invoke(QUERY)
        assert [name for name, _ in watching.events] == ["spec_pc"]

    async def test_contextual_compression_retriever_async(self, compressor: SpecPCCompressor) -> None:
        retrievers = pytest.importorskip("langchain_classic.retrievers.contextual_compression")
        retriever = retrievers.ContextualCompressionRetriever(
            base_compressor=compressor, base_retriever=vector_retriever()
        )
        assert await retriever.ainvoke(QUERY) == compressor.wrap(vector_retriever()).invoke(QUERY)

    async def test_document_compressor_pipeline(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        pipelines = pytest.importorskip("langchain_classic.retrievers.document_compressors")
        pipeline = pipelines.DocumentCompressorPipeline(transformers=[compressor])
        expected = compressor.compress_documents(docs, QUERY)
        assert pipeline.compress_documents(docs, QUERY) == expected
        assert await pipeline.acompress_documents(docs, QUERY) == expected
