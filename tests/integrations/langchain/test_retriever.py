"""The retriever that `SpecPCCompressor.wrap` makes, and the compressor in LangChain's own retrievers."""

from __future__ import annotations

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

from spec_rag.models.pair import ModelPair

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
    return SpecPCCompressor(draft=pair, ratio=0.4)


async def test_wrapped_retriever_gives_compressed_documents(compressor: SpecPCCompressor) -> None:
    plain = vector_retriever()
    expected = compressor.compress_documents(plain.invoke(QUERY), QUERY)
    assert compressor.wrap(plain).invoke(QUERY) == expected
    assert await compressor.wrap(plain).ainvoke(QUERY) == expected


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
