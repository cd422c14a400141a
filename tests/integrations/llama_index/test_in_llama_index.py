"""Both adapters inside LlamaIndex: query engine, chat engine, retriever tool, workflow, and its token counter."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from integrations.llama_index.helpers import Observed
from llama_index.core import PromptTemplate, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatStartEvent
from llama_index.core.schema import NodeWithScore
from llama_index.core.tools import RetrieverTool
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step
from llama_index.llms.spec_rag import KVDropEvent, SpecKVLLM
from llama_index.postprocessor.spec_rag import CompressionEvent, SpecPCCompressor

from spec_rag import SpecKVConfig
from spec_rag.models.model_pair import ModelPair

QUERY = "What was the mule called?"


@pytest.fixture
def llm(pair: ModelPair, speckv: SpecKVConfig) -> SpecKVLLM:
    return SpecKVLLM(pair=pair, speckv=speckv, max_tokens=8)


@pytest.fixture
def compressor(pair: ModelPair) -> SpecPCCompressor:
    return SpecPCCompressor(draft=pair, ratio=0.5)


@pytest.fixture
def index(nodes: list[NodeWithScore]) -> VectorStoreIndex:
    return VectorStoreIndex(nodes=[node.node for node in nodes], embed_model=MockEmbedding(embed_dim=4))


def _chat_prompts(observed: Observed) -> list[str]:
    return [str(event.messages[-1].content) for event in observed.of(LLMChatStartEvent)]


async def test_a_query_engine_answers_from_compressed_nodes_through_the_chat_template(
    index: VectorStoreIndex, llm: SpecKVLLM, compressor: SpecPCCompressor, observed: Observed
) -> None:
    engine = index.as_query_engine(llm=llm, node_postprocessors=[compressor], similarity_top_k=3)
    response = engine.query(QUERY)
    asynchronous = await engine.aquery(QUERY)
    assert str(response) == str(asynchronous) != ""
    assert {node.node_id for node in response.source_nodes} <= {"node-0", "node-1", "node-2"}
    assert any(node.metadata["spec_pc"]["ratio"] < 1 for node in response.source_nodes)
    prompts = _chat_prompts(observed)
    assert len(prompts) == 2, "a model with a chat template is asked through chat, not complete"
    assert all(node.text in prompts[0] for node in response.source_nodes)
    assert "spec_pc" not in prompts[0]
    assert len(observed.of(CompressionEvent)) == len(observed.of(KVDropEvent)) == 2


async def test_a_streaming_query_engine_streams(
    index: VectorStoreIndex, llm: SpecKVLLM, compressor: SpecPCCompressor
) -> None:
    arguments: dict[str, Any] = {"llm": llm, "node_postprocessors": [compressor], "similarity_top_k": 3}
    whole = str(index.as_query_engine(**arguments).query(QUERY))
    assert "".join(index.as_query_engine(**arguments, streaming=True).query(QUERY).response_gen) == whole
    streaming = await index.as_query_engine(**arguments, streaming=True).aquery(QUERY)
    assert "".join([piece async for piece in streaming.async_response_gen()]) == whole


@pytest.mark.parametrize("engine_class", [ContextChatEngine, CondensePlusContextChatEngine])
async def test_a_chat_engine_remembers_streams_and_compresses(
    engine_class: type[Any], index: VectorStoreIndex, llm: SpecKVLLM, compressor: SpecPCCompressor, observed: Observed
) -> None:
    engine = engine_class.from_defaults(
        retriever=index.as_retriever(similarity_top_k=3), llm=llm, node_postprocessors=[compressor]
    )
    first = engine.chat(QUERY)
    assert first.response
    assert all("spec_pc" in node.metadata for node in first.source_nodes)
    streamed = engine.stream_chat("And who fed it?")
    assert "".join(streamed.response_gen)
    assert (await engine.achat("And when?")).response
    asynchronous = await engine.astream_chat("And where?")
    assert "".join([piece async for piece in asynchronous.async_response_gen()])
    assert len(engine.chat_history) == 8
    assert len(observed.of(CompressionEvent)) == 4


async def test_a_retriever_tool_returns_compressed_text(index: VectorStoreIndex, compressor: SpecPCCompressor) -> None:
    tool = RetrieverTool.from_defaults(index.as_retriever(similarity_top_k=3), node_postprocessors=[compressor])
    output = tool.call(QUERY)
    assert all(node.text in output.content for node in output.raw_output)
    assert "spec_pc" not in output.content
    assert output.content == (await tool.acall(QUERY)).content
    assert len(output.content) < len(
        RetrieverTool.from_defaults(index.as_retriever(similarity_top_k=3)).call(QUERY).content
    )


class Compressed(Event):
    query: str
    context: str


class GenerationRequest(Workflow):
    def __init__(self, index: VectorStoreIndex, llm: SpecKVLLM, compressor: SpecPCCompressor) -> None:
        super().__init__(timeout=60)
        self.retriever, self.llm, self.compressor = index.as_retriever(similarity_top_k=3), llm, compressor

    @step
    async def retrieve(self, event: StartEvent) -> Compressed:
        found = await self.retriever.aretrieve(event.query)
        kept = await self.compressor.apostprocess_nodes(found, query_str=event.query)
        return Compressed(query=event.query, context="\n\n".join(node.text for node in kept))

    @step
    async def answer(self, event: Compressed) -> StopEvent:
        return StopEvent(result=await self.llm.apredict(PromptTemplate("{c}\n{q}"), c=event.context, q=event.query))


async def test_a_workflow_compresses_and_answers_in_its_steps(
    index: VectorStoreIndex, llm: SpecKVLLM, compressor: SpecPCCompressor
) -> None:
    assert await GenerationRequest(index, llm, compressor).run(query=QUERY)


def test_the_token_counter_agrees_with_what_was_read(
    index: VectorStoreIndex,
    llm: SpecKVLLM,
    compressor: SpecPCCompressor,
    observed: Observed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = TokenCountingHandler(tokenizer=lambda text: [])
    monkeypatch.setattr(Settings, "_callback_manager", CallbackManager([counter]))
    engine = index.as_query_engine(llm=llm, node_postprocessors=[compressor], streaming=True, similarity_top_k=3)
    "".join(engine.query(QUERY).response_gen)
    [ended] = observed.of(LLMChatEndEvent)
    assert counter.prompt_llm_token_count == ended.response.raw["usage"]["prompt_tokens"] > 100
    assert counter.completion_llm_token_count == 8


def test_compression_shortens_the_prompt(
    index: VectorStoreIndex, pair: ModelPair, compressor: SpecPCCompressor, observed: Observed
) -> None:
    llm = SpecKVLLM(pair=pair, max_tokens=4)
    index.as_query_engine(llm=llm, similarity_top_k=3).query(QUERY)
    index.as_query_engine(llm=llm, similarity_top_k=3, node_postprocessors=[compressor]).query(QUERY)
    whole, short = [event.response.raw["usage"]["prompt_tokens"] for event in observed.of(LLMChatEndEvent)]
    [compression] = observed.of(CompressionEvent)
    assert whole - short >= compression.tokens_before - compression.tokens_after


@pytest.mark.parametrize("package", ["llms", "postprocessor"])
def test_without_llama_index_the_error_says_what_to_install(package: str) -> None:
    program = f"import sys; sys.modules['llama_index.core'] = None\nimport llama_index.{package}.spec_rag"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].endswith('pip install "spec-rag[llama-index]"')


@pytest.mark.parametrize("package", ["llms", "postprocessor"])
def test_importing_loads_neither_torch_nor_transformers(package: str) -> None:
    program = f"import sys, llama_index.{package}.spec_rag\nassert not {{'torch', 'transformers'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
