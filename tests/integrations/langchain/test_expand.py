"""An agent that gets the original of a shortened document back."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatResult
from langchain_core.tools import tool
from langchain_spec_rag import SpecPCCompressor

from spec_rag import Originals
from spec_rag.models.model_pair import ModelPair

QUERY = "Who was the mule?"


def test_each_kept_document_carries_a_handle_of_its_original(pair: ModelPair, docs: list[Document]) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.4)
    kept = compressor.compress_documents(docs, QUERY)
    expand = compressor.expand_tool()
    whole = {one.id: f"{one.metadata['source']}\n\n{one.page_content}" for one in docs}  # the file is the title
    for one in kept:
        handle = one.metadata["spec_pc"]["handle"]
        assert expand.invoke({"handle": handle}) == whole[one.id]
        assert expand.invoke({"handle": handle, "context_before": 0, "context_after": 0}).strip("… ")
    flat = SpecPCCompressor(draft=pair, ratio=0.4, metadata_format="flat").compress_documents(docs, QUERY)
    assert [one.metadata["spec_pc_handle"] for one in flat] == [one.metadata["spec_pc"]["handle"] for one in kept]


@pytest.mark.parametrize("metadata_format", ["nested", "flat"])
def test_a_document_that_was_compressed_twice_leads_back_to_the_first(
    pair: ModelPair, docs: list[Document], metadata_format: str
) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.7, metadata_format=metadata_format)
    again = compressor.compress_documents(compressor.compress_documents(docs, QUERY), QUERY)
    whole = {one.id: one.page_content for one in docs}
    for one in again:
        figures = one.metadata.get("spec_pc") or {"handle": one.metadata["spec_pc_handle"]}
        assert compressor.store.expand(figures["handle"]).text == whole[one.id]
        shown = compressor.store.expand(figures["handle"], 0, 0).text
        assert all(word in shown for word in one.page_content.replace("[...]", "").split())


def test_the_tool_tells_the_model_what_it_takes(pair: ModelPair) -> None:
    expand = SpecPCCompressor(draft=pair).expand_tool()
    assert expand.name == "expand_document"
    assert "original of a shortened text" in expand.description
    assert set(expand.args) == {"handle", "context_before", "context_after", "lines"}
    assert "copied exactly" in expand.args["handle"]["description"]
    assert "no document with the handle 'made-up'" in expand.invoke({"handle": "made-up"})


async def test_the_tool_works_in_asynchronous_chains(pair: ModelPair, docs: list[Document]) -> None:
    compressor = SpecPCCompressor(draft=pair, ratio=0.4)
    (one, *_) = await compressor.acompress_documents(docs, QUERY)
    found = await compressor.expand_tool().ainvoke({"handle": one.metadata["spec_pc"]["handle"]})
    assert found.partition("\n\n")[2] in [given.page_content for given in docs]


def test_stores_can_be_shared_and_are_not_taken_along(pair: ModelPair, docs: list[Document]) -> None:
    originals = Originals()
    first, second = (SpecPCCompressor(draft=pair, ratio=0.4, originals=originals) for _ in range(2))
    (one, *_) = first.compress_documents(docs, QUERY)
    assert one.metadata["spec_pc"]["handle"] in second.store
    own = SpecPCCompressor(draft="a/draft")
    assert own.store is own.store is copy.copy(own).store
    assert own.store is not SpecPCCompressor(draft="a/draft").store
    assert len(pickle.loads(pickle.dumps(SpecPCCompressor(draft="a/draft", originals=originals))).store) == 0
    assert "originals" not in SpecPCCompressor(draft="a/draft", originals=originals).to_json()["kwargs"]


async def test_the_tool_finds_what_a_call_with_settings_of_its_own_compressed(
    pair: ModelPair, docs: list[Document]
) -> None:
    given = {"documents": docs, "query": QUERY}
    whole = {one.id: one.page_content for one in docs}
    for is_async in (False, True):
        compressor = SpecPCCompressor(draft=pair, ratio=0.8)
        expand = compressor.expand_tool()
        kept = await compressor.ainvoke(given, ratio=0.4) if is_async else compressor.invoke(given, ratio=0.4)
        assert kept
        for one in kept:
            assert whole[one.id] in expand.invoke({"handle": one.metadata["spec_pc"]["handle"]})


class Curious(GenericFakeChatModel):
    """Searches, asks for the original of the first handle that it sees, then for one that there is not, and answers."""

    messages: Any = iter([])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        results = [str(message.content) for message in messages if isinstance(message, ToolMessage)]
        if not results:
            call = {"name": "search", "args": {"query": QUERY}}
        elif len(results) == 1:
            found = re.search(r"handle ([\w-]+)", results[0])
            assert found
            call = {"name": "expand_document", "args": {"handle": found.group(1)}}
        elif len(results) == 2:
            call = {"name": "expand_document", "args": {"handle": "lost"}}
        else:
            call = None
        answer = AIMessage(results[1] if call is None else "", tool_calls=[{**call, "id": "1"}] if call else [])
        self.messages = iter([answer])
        return super()._generate(messages, *args, **kwargs)


def test_an_agent_reads_the_short_text_asks_for_the_original_and_survives_a_wrong_handle(
    pair: ModelPair, docs: list[Document]
) -> None:
    agents = pytest.importorskip("langchain.agents")
    compressor = SpecPCCompressor(draft=pair, ratio=0.4, metadata_format="flat")

    @tool
    def search(query: str) -> str:
        """Search the handbook."""
        found = compressor.compress_documents(docs, query)
        return "\n".join(f"{one.page_content} (handle {one.metadata['spec_pc_handle']})" for one in found)

    agent = agents.create_agent(Curious(), tools=[search, compressor.expand_tool()])
    messages = agent.invoke({"messages": [HumanMessage(QUERY)]})["messages"]
    results = [message for message in messages if isinstance(message, ToolMessage)]
    assert [one.name for one in results] == ["search", "expand_document", "expand_document"]
    assert results[1].content.partition("\n\n")[2] in [one.page_content for one in docs]
    assert "call the tool that returned the text again" in results[2].content
    assert messages[-1].content == results[1].content
