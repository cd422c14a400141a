"""Settings of one call in LlamaIndex, and its retrievers around the compressor."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import FunctionTool
from llama_index.llms.spec_rag import SpecKVLLM
from llama_index.postprocessor.spec_rag import SpecPCCompressor

from spec_rag import SpecKVConfig
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.models.model_pair import ModelPair

QUERY = "What was the mule called?"


def texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node.get_content() for node in nodes]


def test_a_budget_of_one_call_wins(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.3, min_tokens=200)
    called = compressor.with_settings(max_tokens=60)
    expected = SpecPCCompressor(draft=pair, max_tokens=60).postprocess_nodes(nodes, query_str=QUERY)
    kept = called.postprocess_nodes(nodes, query_str=QUERY)
    assert texts(kept) == texts(expected)
    assert compressor.store.expand(kept[0].metadata["spec_pc"]["handle"]).text in texts(nodes)
    assert (compressor.ratio, compressor.max_tokens) == (0.3, None)


@pytest.mark.parametrize("mode", ["llm", "all", "embed"])
@pytest.mark.parametrize("min_tokens", [10, 500])
def test_a_floor_and_metadata_count_together(
    pair: ModelPair, nodes: list[NodeWithScore], mode: Any, min_tokens: int
) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.6, min_tokens=min_tokens, metadata_mode=mode)
    kept = compressor.postprocess_nodes(nodes, query_str=QUERY)
    assert (texts(kept) == texts(nodes)) is (min_tokens == 500)


def test_an_index_may_be_the_path_of_its_folder(pair: ModelPair, nodes: list[NodeWithScore], tmp_path: Path) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.3, index=str(tmp_path / "index"))
    assert isinstance(compressor.index, DocumentIndex)
    compressor.postprocess_nodes(nodes, query_str=QUERY)
    assert any((tmp_path / "index").iterdir())


class Found(BaseRetriever):
    """Finds the same for every question, with these scores."""

    def __init__(self, nodes: list[NodeWithScore], scores: list[float | None]) -> None:
        super().__init__()
        self.found = [NodeWithScore(node=node.node, score=score) for node, score in zip(nodes, scores, strict=True)]

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.found


async def test_a_retriever_can_be_wrapped(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.4)
    wrapped = compressor.wrap(Found(nodes, [0.9, 0.8, 0.7]))
    expected = compressor.postprocess_nodes(Found(nodes, [0.9, 0.8, 0.7]).found, query_str=QUERY)
    assert texts(wrapped.retrieve(QUERY)) == texts(expected)
    assert texts(await wrapped.aretrieve(QUERY)) == texts(expected)
    index = VectorStoreIndex([TextNode(text=text) for text in texts(nodes)], embed_model=MockEmbedding(embed_dim=4))
    assert compressor.wrap(index).retrieve(QUERY)
    assert compressor.wrap(index.as_retriever(similarity_top_k=1)).retrieve(QUERY)


@pytest.mark.parametrize(
    ("scores", "given", "expected"),
    [
        ("auto", [0.0, 1.0, 3.0], [1.0, 0.5, 0.25]),  # distances, as FAISS gives
        ("auto", [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]),
        ("auto", [None, None, None], [None, None, None]),
        ("rank", [None, None, None], [1, 1 / 2, 1 / 3]),
        ("none", [0.0, 1.0, 3.0], [0.0, 1.0, 3.0]),
    ],
)
def test_what_scores_are(
    pair: ModelPair, nodes: list[NodeWithScore], scores: Any, given: list[float | None], expected: list[float | None]
) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.6, keep_empty=True)
    retriever = Found(nodes, given)
    assert [node.score for node in compressor.wrap(retriever, scores).retrieve(QUERY)] == expected
    assert [node.score for node in retriever.found] == given


@pytest.mark.parametrize(("retriever", "scores"), [("nothing", "auto"), (None, "auto"), (Found([], []), "best")])
def test_what_is_no_retriever_is_refused(pair: ModelPair, retriever: Any, scores: Any) -> None:
    with pytest.raises(ValueError, match=r"retriever=|scores="):
        SpecPCCompressor(draft=pair).wrap(retriever, scores)


def test_pruning_can_be_switched_off_for_one_call(pair: ModelPair, speckv: SpecKVConfig) -> None:
    llm = SpecKVLLM(pair=pair, speckv=speckv, max_tokens=4)
    prompt = "The mule carried mail over the pass for nine years. " * 4
    pruned, whole = llm.complete(prompt), llm.complete(prompt, speckv=None)
    assert pruned.raw["speckv"]["kv_bytes_kept"] < pruned.raw["speckv"]["kv_bytes_dense"]
    assert whole.raw["speckv"]["kv_bytes_kept"] == whole.raw["speckv"]["kv_bytes_dense"]
    assert whole.text == SpecKVLLM(pair=pair, speckv=None, max_tokens=4).complete(prompt).text


async def test_models_are_loaded_beside_the_event_loop(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded_in_loop: list[bool] = []

    def slowly(*names: Any, **options: Any) -> ModelPair:
        try:
            asyncio.get_running_loop()
            loaded_in_loop.append(True)
        except RuntimeError:
            loaded_in_loop.append(False)
        time.sleep(0.01)
        return pair

    monkeypatch.setattr(ModelPair, "of_settings", slowly)

    def weigh(kilos: int) -> str:
        """Weigh a load."""
        return str(kilos)

    def llm() -> SpecKVLLM:
        return SpecKVLLM(target="tiny-target", draft="tiny-draft", speckv=None, max_tokens=3)

    await llm().acomplete("Who?")
    assert [piece async for piece in await llm().astream_complete("Who?")]
    with pytest.raises(ValueError, match="ReActAgent"):  # what LlamaIndex makes of a model that calls no tools
        await llm().apredict_and_call([FunctionTool.from_defaults(weigh)], "Who?")
    assert loaded_in_loop == [False] * 3
