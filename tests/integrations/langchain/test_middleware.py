"""SpecPCMiddleware in LangChain's agents."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import threading
from typing import Any

import pytest
from integrations.langchain.helpers import scripted
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from threads import until_waiting

import spec_rag
from spec_rag.models.model_pair import ModelPair
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.object_state import state_of

agents = pytest.importorskip("langchain.agents")

from langchain.agents.middleware import ModelRequest  # noqa: E402
from langchain_spec_rag import ChatSpecKV, SpecPCCompressor, SpecPCMiddleware  # noqa: E402

from spec_rag.errors import OutOfMemoryError  # noqa: E402
from spec_rag.tool_results.shorten import NOTHING_KEPT  # noqa: E402

LONG = "The dome was opened in 1931. Soup is served on Mondays. The mule was called Saffron. Snow lies in March. " * 12
QUESTION = "What was the mule called?"


@tool
def search(query: str) -> str:
    """Search the handbook."""
    return LONG


def conversation() -> list[BaseMessage]:
    call = {"name": "search", "args": {"query": "mule"}, "id": "1"}
    return [
        HumanMessage(QUESTION),
        AIMessage("", tool_calls=[call]),
        ToolMessage(LONG, tool_call_id="1", name="search", id="t1"),
        AIMessage("", tool_calls=[{**call, "id": "2"}]),
        ToolMessage("short", tool_call_id="2", name="search"),
    ]


def request(messages: list[BaseMessage]) -> ModelRequest[Any]:
    return ModelRequest(model=GenericFakeChatModel(messages=iter([])), messages=messages, state={"messages": messages})


def read_by_model(middleware: SpecPCMiddleware, messages: list[BaseMessage]) -> list[BaseMessage]:
    seen: list[ModelRequest[Any]] = []
    middleware.wrap_model_call(request(messages), seen.append)
    return seen[0].messages


@pytest.fixture
def middleware(pair: ModelPair) -> SpecPCMiddleware:
    return SpecPCMiddleware(draft=pair, ratio=0.4, min_chars=100)


@pytest.fixture
def compressing_threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads in which `spec_rag.compress` was called."""
    threads: list[threading.Thread] = []
    original = spec_rag.compress

    def noted(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread())
        return original(*args, **kwargs)

    monkeypatch.setattr(spec_rag, "compress", noted)
    return threads


@pytest.mark.parametrize("keep_last", [2, 3, 5])
def test_nothing_is_shortened_where_all_results_are_among_the_newest(pair: ModelPair, keep_last: int) -> None:
    messages = conversation()
    middleware = SpecPCMiddleware(draft=pair, ratio=0.4, min_chars=1, keep_last=keep_last)
    assert read_by_model(middleware, messages) == messages


def test_a_question_beside_an_image_is_a_question(middleware: SpecPCMiddleware) -> None:
    messages = conversation()
    parts = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
    plain = read_by_model(middleware, messages)
    assert read_by_model(middleware, [HumanMessage(parts), *messages[1:]])[2].content == plain[2].content != LONG


def test_long_results_are_shortened_and_the_rest_is_not(middleware: SpecPCMiddleware) -> None:
    messages = conversation()
    read = read_by_model(middleware, messages)
    assert 0 < len(read[2].content) <= 0.4 * len(LONG)
    assert [read[i] for i in (0, 1, 3, 4)] == [messages[i] for i in (0, 1, 3, 4)]


def test_shortened_results_keep_who_they_are(middleware: SpecPCMiddleware) -> None:
    result = read_by_model(middleware, conversation())[2]
    assert (result.id, result.tool_call_id, result.name) == ("t1", "1", "search")
    figures = result.response_metadata["spec_pc"]
    assert (figures["kind"], figures["not_shortened"]) == ("prose", None)
    assert figures["handle"] in result.content
    assert figures["compressed_tokens"] < figures["original_tokens"]


def test_state_and_request_are_untouched(middleware: SpecPCMiddleware) -> None:
    messages = conversation()
    before = copy.deepcopy(messages)
    read_by_model(middleware, messages)
    assert messages == before


async def test_async_gives_the_same_and_not_on_the_event_loop(
    middleware: SpecPCMiddleware, compressing_threads: list[threading.Thread]
) -> None:
    seen: list[ModelRequest[Any]] = []

    async def handler(given: ModelRequest[Any]) -> Any:
        seen.append(given)

    await middleware.awrap_model_call(request(conversation()), handler)
    assert compressing_threads
    assert threading.main_thread() not in compressing_threads
    assert seen[0].messages == read_by_model(middleware, conversation())


async def test_cancelling_a_call_ends_its_wait_for_the_draft(
    middleware: SpecPCMiddleware, pair: ModelPair, compressing_threads: list[threading.Thread]
) -> None:
    async def handler(given: ModelRequest[Any]) -> Any:
        raise AssertionError("the model was called")

    lock = state_of(pair.draft, FairLock)
    with lock.hold():
        call = asyncio.create_task(middleware.awrap_model_call(request(conversation()), handler))
        await asyncio.to_thread(until_waiting, lock, 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(until_waiting, lock, 1)
    assert len(compressing_threads) == 1


def test_the_question_is_the_last_human_messages_and_the_call(
    middleware: SpecPCMiddleware, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = spec_rag.compress

    def noted(documents: Any, query: str, **settings: Any) -> Any:
        asked.append(query)
        return original(documents, query, **settings)

    monkeypatch.setattr(spec_rag, "compress", noted)
    first = [HumanMessage("Hello"), AIMessage("Hi"), HumanMessage("Say:")]
    read_by_model(middleware, [*first, *conversation()])
    assert asked == [f"Say:\n{QUESTION}\nsearch query: mule"]


def test_newest_results_may_stay_whole(pair: ModelPair) -> None:
    messages = conversation()[:3]
    kept = read_by_model(SpecPCMiddleware(draft=pair, ratio=0.4, min_chars=100, keep_last=1), messages)
    assert kept == messages


def test_errors_and_media_are_left_alone(middleware: SpecPCMiddleware) -> None:
    messages = conversation()
    messages[2] = ToolMessage(LONG, tool_call_id="1", status="error")
    messages[4] = ToolMessage([{"type": "text", "text": LONG}, {"type": "image", "url": "x"}], tool_call_id="2")
    assert read_by_model(middleware, messages) == messages


def test_without_a_turn_of_the_user_the_call_is_the_question(middleware: SpecPCMiddleware) -> None:
    messages = conversation()[1:]
    assert len(read_by_model(middleware, messages)[1].content) < len(LONG)
    messages = [ToolMessage(LONG, tool_call_id="1")]
    assert read_by_model(middleware, messages) == messages
    assert read_by_model(middleware, []) == []


def test_a_result_without_anything_for_the_question_says_so(middleware: SpecPCMiddleware, pair: ModelPair) -> None:
    few = SpecPCMiddleware(draft=pair, threshold=100.0, min_chars=100)
    assert read_by_model(few, conversation())[2].content.startswith(f"{NOTHING_KEPT} [… ")


def test_a_result_is_compressed_once_for_a_question(
    middleware: SpecPCMiddleware, compressing_threads: list[threading.Thread]
) -> None:
    read_by_model(middleware, conversation())
    read_by_model(middleware, conversation())
    assert len(compressing_threads) == 1
    other = [HumanMessage("And the dome?"), *conversation()[1:]]
    read_by_model(middleware, other)
    assert len(compressing_threads) == 2


def test_what_the_model_has_read_of_a_result_stays_the_same_in_later_turns(
    middleware: SpecPCMiddleware, compressing_threads: list[threading.Thread]
) -> None:
    first = read_by_model(middleware, conversation())
    messages = [*conversation(), AIMessage("Saffron."), HumanMessage("And when was the dome opened?")]
    again = {"name": "search", "args": {}, "id": "3"}
    messages += [AIMessage("", tool_calls=[again]), ToolMessage(LONG, tool_call_id="3", name="search")]
    second = read_by_model(middleware, messages)
    assert [one.content for one in second[: len(first)]] == [one.content for one in first]
    assert len(second[-1].content) < len(LONG)
    assert len(compressing_threads) == 2


def test_figures_are_there_in_whatever_form_the_compressor_writes_them(pair: ModelPair) -> None:
    for form in ("flat", "none"):
        middleware = SpecPCMiddleware(SpecPCCompressor(draft=pair, ratio=0.4, metadata_format=form), min_chars=100)
        result = read_by_model(middleware, conversation())[2]
        assert result.response_metadata["spec_pc"]["kind"] == "prose"


def test_an_agent_gets_the_whole_of_a_shortened_result_by_its_handle(pair: ModelPair) -> None:
    class Curious(GenericFakeChatModel):
        messages: Any = iter([])

        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            offered.append({one.name for one in tools})
            return self

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            results = [str(message.content) for message in messages if isinstance(message, ToolMessage)]
            read.append(results)
            call = {"name": "search", "args": {"query": "mule"}, "id": "1"}
            if len(results) == 1:
                found = re.search(r"handle ([\w-]+)", results[0])
                assert found
                call = {"name": "expand_document", "args": {"handle": found.group(1)}, "id": "2"}
            answer = AIMessage("Saffron.") if len(results) == 2 else AIMessage("", tool_calls=[call])
            self.messages = iter([answer])
            return super()._generate(messages, *args, **kwargs)

    read: list[list[str]] = []
    offered: list[set[str]] = []
    middleware = SpecPCMiddleware(draft=pair, ratio=0.4, min_chars=100)
    agent = agents.create_agent(Curious(), tools=[search], middleware=[middleware])
    final = agent.invoke({"messages": [HumanMessage(QUESTION)]})
    assert offered[0] == {"search", "expand_document"}
    assert len(read[1][0]) < len(LONG)
    assert read[2] == [read[1][0], LONG]  # the first as it was, the second whole
    assert final["messages"][2].content == LONG
    for hidden in (SpecPCMiddleware(draft=pair, expand=False), SpecPCMiddleware(draft=pair, show_handle=False)):
        assert hidden.tools == []
        assert "handle" not in str(read_by_model(hidden, conversation())[2].content)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OutOfMemoryError("full"), "out of memory"),
        (OSError("the index is gone"), "error OSError"),
        (ValueError("bad input"), "error ValueError"),
        (None, "deadline"),
    ],
)
async def test_after_a_fault_the_turn_goes_on_with_the_original(
    fault: Exception | None, reason: str, pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        if fault is None:
            assert kwargs["cancelled"].wait(20)
        raise fault or AssertionError

    monkeypatch.setattr(spec_rag, "compress", failing)
    seconds = 0.3 if fault is None else 60
    middleware = SpecPCMiddleware(draft=pair, min_chars=100, deadline_seconds=seconds)
    read = read_by_model(middleware, conversation())
    assert [message.content for message in read] == [message.content for message in conversation()]
    assert read[2].response_metadata["spec_pc"]["not_shortened"] == reason
    with pytest.raises(type(fault) if fault else TimeoutError):
        read_by_model(
            SpecPCMiddleware(draft=pair, min_chars=100, deadline_seconds=seconds, on_error="raise"), conversation()
        )
    compressor = SpecPCCompressor(draft=pair, deadline_seconds=seconds)
    documents = [Document("One. Two.", metadata={"a": 1}), Document("Three.")]
    for found in (
        compressor.compress_documents(documents, QUESTION),
        await compressor.acompress_documents(documents, QUESTION),
    ):
        assert [one.page_content for one in found] == ["One. Two.", "Three."]
        assert found[0].metadata == {"a": 1, "spec_pc": {"not_shortened": reason}}
    with pytest.raises(type(fault) if fault else TimeoutError):
        SpecPCCompressor(draft=pair, deadline_seconds=seconds, on_error="raise").compress_documents(documents, QUESTION)


def test_only_allowed_tools_are_shortened_and_json_stays_json(pair: ModelPair) -> None:
    messages = conversation()
    items = [{"id": i, "text": f"The mule {i} was called Saffron."} for i in range(40)]
    messages[2] = ToolMessage(json.dumps(items), tool_call_id="1", name="search")
    short = read_by_model(SpecPCMiddleware(draft=pair, ratio=0.4, min_chars=100), messages)[2].content
    assert len(short) < len(messages[2].content)
    assert any(isinstance(item, str) and "omitted" in item for item in json.loads(str(short)))
    for options in ({"except_tools": ["sea*"]}, {"only_tools": ["read"]}, {"mode": "off"}):
        assert read_by_model(SpecPCMiddleware(draft=pair, min_chars=100, **options), messages) == messages


@pytest.mark.parametrize("wrong", [{"min_chars": -1}, {"keep_last": True}, {"ratio": 0}, {"rate": 0.5}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SpecPCMiddleware(**wrong)


def test_compressor_and_settings_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="ratio"):
        SpecPCMiddleware(SpecPCCompressor(), ratio=0.5)


async def test_in_an_agent(middleware: SpecPCMiddleware) -> None:
    class ScoredDocuments(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            read.append(messages)
            return super()._generate(messages, *args, **kwargs)

    def agent() -> Any:
        call = {"name": "search", "args": {"query": "mule"}, "id": "1"}
        model = ScoredDocuments(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("Saffron.")]))
        return agents.create_agent(model, tools=[search], middleware=[middleware])

    read: list[list[BaseMessage]] = []
    question = {"messages": [HumanMessage(QUESTION)]}
    for final in (agent().invoke(question), await agent().ainvoke(question)):
        assert len(read[-1][-1].content) <= 0.4 * len(LONG)
        assert final["messages"][2].content == LONG
        assert final["messages"][-1].content == "Saffron."


def test_with_chat_spec_kv_as_the_agent_s_model(middleware: SpecPCMiddleware, tool_pair: ModelPair) -> None:
    prompts: list[str] = []

    def script(prompt: str) -> str:
        prompts.append(prompt)
        if "<|im_start|>tool" in prompt:
            return "It was called Saffron."
        return '<tool_call>\n{"name": "search", "arguments": {"query": "mule"}}\n</tool_call>'

    agent = agents.create_agent(ChatSpecKV(pair=tool_pair), tools=[search], middleware=[middleware])
    with scripted(tool_pair, script):
        final = agent.invoke({"messages": [HumanMessage(QUESTION)]})
    assert final["messages"][-1].text == "It was called Saffron."
    assert LONG not in prompts[1]
