"""Settings of one call in LangChain, and models that are loaded while an event loop runs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from integrations.langchain.helpers import documents
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_spec_rag import ChatSpecKV, SpecKVLLM, SpecPCCompressor
from langchain_spec_rag.retriever import ScoringVectorStoreRetriever

from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.models.model_pair import ModelPair

QUERY = "Who was the mule?"


@pytest.mark.parametrize("made_with", [{"ratio": 0.3}, {"ratio": 0.3, "min_tokens": 200}, {"coverage": 0.9}])
async def test_a_budget_of_one_call_wins(pair: ModelPair, made_with: dict[str, Any]) -> None:
    compressor = SpecPCCompressor(draft=pair, **made_with)
    given = {"documents": documents(), "query": QUERY}
    expected = SpecPCCompressor(draft=pair, max_tokens=60).compress_documents(documents(), QUERY)
    assert [one.page_content for one in compressor.invoke(given, max_tokens=60)] == [d.page_content for d in expected]
    assert [d.page_content for d in await compressor.ainvoke(given, max_tokens=60)] == [
        one.page_content for one in expected
    ]
    assert compressor.ratio == made_with.get("ratio")


def test_a_preset_of_one_call_mixes_with_no_other(pair: ModelPair) -> None:
    called = SpecPCCompressor(draft=pair, preset="paper", max_tokens=60)._with({"preset": "default"})
    assert called._settings() == SpecPCCompressor(preset="default", max_tokens=60)._settings()
    assert called.preset == "default"


def test_an_index_may_be_the_path_of_its_folder(pair: ModelPair, tmp_path: Path) -> None:
    for folder in (tmp_path / "index", str(tmp_path / "index")):
        compressor = SpecPCCompressor(draft=pair, ratio=0.3, index=folder)
        assert isinstance(compressor.index, DocumentIndex)
        compressor.compress_documents(documents(), QUERY)
    assert any((tmp_path / "index").iterdir())


class Distances(InMemoryVectorStore):
    """A store that gives distances."""

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        found = super().similarity_search_with_score(query, k, **kwargs)
        return [(document, 1 - similarity) for document, similarity in found]

    async def asimilarity_search_with_score(self, *args: Any, **kwargs: Any) -> list[tuple[Document, float]]:
        return self.similarity_search_with_score(*args, **kwargs)


class FAISS(Distances):
    """A store that is known for giving distances."""


@pytest.mark.parametrize("k", [1, 3])
async def test_distances_stand_in_the_metadata_as_scores(k: int) -> None:
    store = FAISS.from_documents(documents(), DeterministicFakeEmbedding(size=8))
    distances = [score for _, score in store.similarity_search_with_score(QUERY, k=k)]
    retriever = ScoringVectorStoreRetriever.of(store.as_retriever(search_kwargs={"k": k}))
    for found in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
        scores = [document.metadata["relevance_score"] for document in found]
        assert scores == pytest.approx([1 / (1 + distance) for distance in distances])


@pytest.mark.parametrize("kind", [SpecKVLLM, ChatSpecKV])
@pytest.mark.parametrize("way", ["ainvoke", "agenerate", "astream"])
async def test_models_are_loaded_beside_the_event_loop(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch, kind: Any, way: str
) -> None:
    def slowly(*names: Any, **options: Any) -> ModelPair:
        time.sleep(0.5)
        return pair

    monkeypatch.setattr(ModelPair, "of_settings", slowly)
    model = kind(target="tiny-target", draft="tiny-draft", speckv=None, max_tokens=3)
    stalls = [0.0]

    async def watch() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.01)
            now = time.perf_counter()
            stalls.append(now - last)
            last = now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    if way == "astream":
        assert [piece async for piece in model.astream("Who?")]
    elif way == "agenerate":
        assert await (model.agenerate(["Who?"]) if kind is SpecKVLLM else model.agenerate([[HumanMessage("Who?")]]))
    else:
        assert await model.ainvoke("Who?")
    watching.cancel()
    assert max(stalls) < 0.4
