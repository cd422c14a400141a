"""An agent that gets the original of a shortened node back."""

from __future__ import annotations

import pickle
import re
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata, MessageRole
from llama_index.core.llms import MockLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index.core.tools import FunctionTool
from llama_index.postprocessor.spec_rag import SpecPCCompressor

from spec_rag import Originals
from spec_rag.models.model_pair import ModelPair

QUERY = "What was the mule called?"


def test_each_kept_node_carries_a_handle_of_its_original(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.6)
    expand = compressor.expand_tool()
    whole = {one.node_id: one.text for one in nodes}
    kept = compressor.postprocess_nodes(nodes, query_str=QUERY)
    for one in kept:
        handle = one.metadata["spec_pc"]["handle"]
        assert handle not in one.node.get_content(metadata_mode=MetadataMode.LLM)
        assert whole[one.node_id] in expand(handle=handle).content
    again = compressor.postprocess_nodes(kept, query_str=QUERY)
    assert all(compressor.store.expand(n.metadata["spec_pc"]["handle"]).text == whole[n.node_id] for n in again)


def test_the_llm_sees_the_handle_where_that_is_asked_for_within_the_budget(
    pair: ModelPair, nodes: list[NodeWithScore]
) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.8, show_handle=True, metadata_mode="llm")
    kept = compressor.postprocess_nodes(nodes, query_str=QUERY)
    before = sum(len(one.node.get_content(metadata_mode=MetadataMode.LLM).encode()) for one in nodes)
    seen = [one.node.get_content(metadata_mode=MetadataMode.LLM) for one in kept]
    assert kept
    shown = sum(len("spec_pc_handle: q3k7m2nd5xza-h4t2\n") for _ in nodes)
    assert sum(len(text.encode()) for text in seen) <= 0.8 * (before + shown)
    for one, text in zip(kept, seen, strict=True):
        assert f"spec_pc_handle: {one.metadata['spec_pc']['handle']}" in text
        assert "spec_pc_handle" not in one.node.get_content(metadata_mode=MetadataMode.EMBED)


def test_stores_can_be_shared_and_are_not_taken_along(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    originals = Originals()
    first, second = (SpecPCCompressor(draft=pair, ratio=0.6, originals=originals) for _ in range(2))
    (one, *_) = first.postprocess_nodes(nodes, query_str=QUERY)
    assert one.metadata["spec_pc"]["handle"] in second.store
    assert "originals" not in first.to_dict()
    assert len(pickle.loads(pickle.dumps(SpecPCCompressor(originals=originals))).store) == 0


def test_the_tool_finds_what_the_compressor_with_other_settings_compressed(
    pair: ModelPair, nodes: list[NodeWithScore]
) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.8)
    expand, whole = compressor.expand_tool(), {one.node_id: one.text for one in nodes}
    kept = compressor.with_settings(ratio=0.4).postprocess_nodes(nodes, query_str=QUERY)
    assert kept
    for one in kept:
        assert whole[one.node_id] in expand(handle=one.metadata["spec_pc"]["handle"]).content


class Curious(MockLLM):
    """Searches, asks for the original of the first handle that it sees, then for one that there is not, and answers."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_function_calling_model=True)

    async def astream_chat_with_tools(self, tools: Any, chat_history: Any = None, **kwargs: Any) -> Any:
        results = [str(m.content) for m in chat_history if m.role == MessageRole.TOOL]
        if not results:
            call = ToolSelection(tool_id="1", tool_name="search", tool_kwargs={"query": QUERY})
        elif len(results) == 1:
            found = re.search(r"spec_pc_handle: ([\w-]+)", results[0])
            assert found
            call = ToolSelection(tool_id="2", tool_name="expand_document", tool_kwargs={"handle": found.group(1)})
        elif len(results) == 2:
            call = ToolSelection(tool_id="3", tool_name="expand_document", tool_kwargs={"handle": "lost"})
        else:
            call = None
        answer = ChatMessage(content="" if call else results[1], additional_kwargs={"calls": [call] if call else []})
        answer.role = MessageRole.ASSISTANT

        async def stream() -> Any:
            yield ChatResponse(message=answer, delta=answer.content)

        return stream()

    def get_tool_calls_from_response(self, response: Any, **kwargs: Any) -> list[ToolSelection]:
        return response.message.additional_kwargs["calls"]  # type: ignore[no-any-return]


async def test_an_agent_reads_the_short_text_asks_for_the_original_and_survives_a_wrong_handle(
    pair: ModelPair, nodes: list[NodeWithScore]
) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.6, show_handle=True)

    def search(query: str) -> str:
        """Search the handbook."""
        found = compressor.postprocess_nodes(nodes, query_str=query)
        return "\n\n".join(one.node.get_content(metadata_mode=MetadataMode.LLM) for one in found)

    tools = [FunctionTool.from_defaults(search), compressor.expand_tool()]
    assert "original of a shortened text" in tools[1].metadata.description
    agent = FunctionAgent(tools=tools, llm=Curious(), streaming=True)
    running = agent.run(QUERY)
    results = [event async for event in running.stream_events() if isinstance(event, ToolCallResult)]
    answer = str(await running)
    assert [one.tool_name for one in results] == ["search", "expand_document", "expand_document"]
    assert any(node.text in results[1].tool_output.content for node in nodes)
    assert "call the tool that returned the text again" in results[2].tool_output.content
    assert any(node.text in answer for node in nodes)
