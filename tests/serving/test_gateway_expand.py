"""The gateway offers a tool that returns originals, and answers its calls itself; clients need no change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from serving.helpers import Light, running, served
from serving.test_gateway_shapes import SHAPES, body_of, exchange, fronting, result_of

from spec_rag.serving.expand_rounds import Round

openai = pytest.importorskip("openai")


class Model:
    """An upstream whose model says a word, calls the tools that it is told to, and then answers."""

    def __init__(self, *calls: list[tuple[str, dict[str, Any]]]) -> None:
        self.calls = list(calls)
        self.bodies: list[dict[str, Any]] = []

    @contextmanager
    def running(self) -> Iterator[str]:
        app = FastAPI()

        @app.post("/v1/{path:path}")
        async def answer(path: str, request: Request) -> Response:
            body = await request.json()
            self.bodies.append(body)
            shape = next(shape for shape, known in SHAPES.items() if known == path)
            calls = self.calls.pop(0) if self.calls else []
            text = f"word{len(self.bodies)} "
            if body.get("stream"):
                events = globals()[f"{shape}_events"](text, calls)
                return StreamingResponse(iter(events), media_type="text/event-stream")
            return JSONResponse(globals()[f"{shape}_whole"](text, calls))

        with running(app) as url:
            yield f"{url}/v1"


def chat_whole(text: str, calls: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"id": f"t{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            for i, (name, given) in enumerate(calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    head = {"id": f"c{text}", "object": "chat.completion", "created": 1, "model": "big"}
    return {**head, "choices": [choice], "usage": usage}


def chat_events(text: str, calls: Any) -> list[str]:
    def chunk(delta: Any, finish: str | None = None, **more: Any) -> str:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        head = {"id": f"c{text}", "object": "chat.completion.chunk", "created": 1, "model": "big"}
        return f"data: {json.dumps({**head, 'choices': choices, **more})}\n\n"

    events = [chunk({"role": "assistant", "content": ""}), chunk({"content": text})]
    for i, (name, given) in enumerate(calls):
        arguments = json.dumps(given)
        first = {"index": i, "id": f"t{i}", "type": "function", "function": {"name": name, "arguments": ""}}
        events.append(chunk({"tool_calls": [first]}))
        events += [
            chunk({"tool_calls": [{"index": i, "function": {"arguments": c}}]}) for c in (arguments[:5], arguments[5:])
        ]
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    return [*events, chunk({}, "tool_calls" if calls else "stop"), chunk(None, usage=usage), "data: [DONE]\n\n"]


def _output(text: str, calls: Any) -> list[dict[str, Any]]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"type": "message", "id": f"m{text}", "role": "assistant", "status": "completed", "content": content}
    return [message] + [
        {"type": "function_call", "id": f"f{i}", "call_id": f"t{i}", "name": name, "arguments": json.dumps(given)}
        for i, (name, given) in enumerate(calls)
    ]


def responses_whole(text: str, calls: Any) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12, "input_tokens_details": {"cached_tokens": 1}}
    head = {"id": f"r{text}", "object": "response", "created_at": 1, "model": "big", "status": "completed"}
    rest = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {**head, **rest, "output": _output(text, calls), "usage": usage}


def responses_events(text: str, calls: Any) -> list[str]:
    whole = responses_whole(text, calls)
    events: list[dict[str, Any]] = [{"type": "response.created", "response": {**whole, "output": []}}]
    for i, item in enumerate(whole["output"]):
        events.append({"type": "response.output_item.added", "output_index": i, "item": item})
        if item["type"] == "message":
            place = {"output_index": i, "content_index": 0, "item_id": item["id"]}
            part = {"type": "output_text", "text": "", "annotations": []}
            events.append({"type": "response.content_part.added", **place, "part": part})
            events.append({"type": "response.output_text.delta", **place, "delta": text})
        else:
            place = {"output_index": i, "item_id": item["id"]}
            events.append({"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]})
        events.append({"type": "response.output_item.done", "output_index": i, "item": item})
    events.append({"type": "response.completed", "response": whole})
    return [
        f"event: {one['type']}\ndata: {json.dumps({**one, 'sequence_number': i})}\n\n" for i, one in enumerate(events)
    ]


def messages_whole(text: str, calls: Any) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}]
    blocks += [
        {"type": "tool_use", "id": f"t{i}", "name": name, "input": given} for i, (name, given) in enumerate(calls)
    ]
    head = {"id": f"m{text}", "type": "message", "role": "assistant", "model": "big", "content": blocks}
    usage = {"input_tokens": 10, "output_tokens": 2}
    return {**head, "stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None, "usage": usage}


def messages_events(text: str, calls: Any) -> list[str]:
    whole = messages_whole(text, calls)
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {**whole, "content": []}}]
    for i, block in enumerate(whole["content"]):
        if block["type"] == "text":
            empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": text}
        else:
            empty, delta = (
                {**block, "input": {}},
                {"type": "input_json_delta", "partial_json": json.dumps(block["input"])},
            )
        events.append({"type": "content_block_start", "index": i, "content_block": empty})
        events.append({"type": "content_block_delta", "index": i, "delta": delta})
        events.append({"type": "content_block_stop", "index": i})
    end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    events += [{"type": "message_delta", "delta": end, "usage": {"output_tokens": 2}}, {"type": "message_stop"}]
    return [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events]


def ask(url: str, shape: str, stream: bool, **more: Any) -> tuple[str, list[str], dict[str, Any]]:
    """Text, names of the calls, and usage of an answer."""
    body = json.loads(body_of(shape, exchange(shape, 0, result_of(0))).replace(b"1e999", b"1"))
    answer = httpx.post(f"{url}/v1/{SHAPES[shape]}", json={**body, "stream": stream, **more}, timeout=60)
    assert answer.status_code == 200
    if not stream:
        found = answer.json()
        if shape == "chat":
            message = found["choices"][0]["message"]
            names = [call["function"]["name"] for call in message.get("tool_calls", ())]
            assert found["choices"][0]["finish_reason"] == ("tool_calls" if names else "stop")
            return message["content"], names, found["usage"]
        items = found["output" if shape == "responses" else "content"]
        texts = [
            item["content"][0]["text"] if shape == "responses" else item["text"] for item in items if "name" not in item
        ]
        return "".join(texts), [item["name"] for item in items if "name" in item], found["usage"]
    events = [
        json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: {")
    ]
    return globals()[f"{shape}_streamed"](events)  # type: ignore[no-any-return]


def chat_streamed(events: list[Any]) -> tuple[str, list[str], dict[str, Any]]:
    choices = [one["choices"][0] for one in events if one["choices"]]
    assert sum(choice["finish_reason"] is not None for choice in choices) == 1
    assert len({one["id"] for one in events}) == 1
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert {call["index"] for call in calls} <= {0}
    names = [call["function"]["name"] for call in calls if call["function"].get("name")]
    assert choices[-1]["finish_reason"] == ("tool_calls" if names else "stop")
    return "".join(choice["delta"].get("content") or "" for choice in choices), names, events[-1]["usage"]


def responses_streamed(events: list[Any]) -> tuple[str, list[str], dict[str, Any]]:
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    kinds = [one["type"] for one in events]
    assert len({one["response"]["id"] for one in events if "response" in one}) == 1
    assert kinds.count("response.created") == kinds.count("response.completed") == 1
    added = [one for one in events if one["type"] == "response.output_item.added"]
    assert [one["output_index"] for one in added] == list(range(len(added)))
    output = events[-1]["response"]["output"]
    assert output == [one["item"] for one in events if one["type"] == "response.output_item.done"]
    text = "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")
    return text, [item["name"] for item in output if "name" in item], events[-1]["response"]["usage"]


def messages_streamed(events: list[Any]) -> tuple[str, list[str], dict[str, Any]]:
    kinds = [one["type"] for one in events]
    assert kinds.count("message_start") == kinds.count("message_delta") == kinds.count("message_stop") == 1
    starts = [one for one in events if one["type"] == "content_block_start"]
    assert [one["index"] for one in starts] == list(range(len(starts)))
    assert len(starts) == kinds.count("content_block_stop")
    text = "".join(one["delta"]["text"] for one in events if one.get("delta", {}).get("type") == "text_delta")
    names = [one["content_block"]["name"] for one in starts if one["content_block"]["type"] == "tool_use"]
    delta = next(one for one in events if one["type"] == "message_delta")
    assert delta["delta"]["stop_reason"] == ("tool_use" if names else "end_turn")
    return text, names, delta["usage"]


def handle_in(body: dict[str, Any]) -> str:
    text = json.dumps(body)
    return text[text.index("handle ") + 7 :][:12]


@contextmanager
def fronted(model: Model, **given: Any) -> Iterator[str]:
    with model.running() as upstream, served(fronting(upstream, expand=True, **given), Light()) as url:
        yield url


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_model_gets_the_original_and_the_client_sees_one_answer(shape: str, stream: bool) -> None:
    probe = Model()
    with fronted(probe) as url:
        text, names, _ = ask(url, shape, stream)
        assert (text, names) == ("word1 ", [])
        handle = handle_in(probe.bodies[0])
        tool = probe.bodies[0]["tools"][-1]
        assert (tool.get("function") or tool)["name"] == "expand_document"
    model = Model([("expand_document", {"handle": handle})], [("expand_document", {"handle": handle, "lines": "1"})])
    with fronted(model) as url:
        text, names, usage = ask(url, shape, stream)
    assert (text, names) == ("word3 ", []) if shape == "chat" and not stream else ("word1 word2 word3 ", [])
    assert len(model.bodies) == 3
    for body in model.bodies[1:]:
        assert json.dumps(result_of(0))[1:-1] in json.dumps(body)
        assert body["unknown"] == {"a": 1}
    assert usage.get("output_tokens", usage.get("completion_tokens")) == 6


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_calls_of_the_clients_own_tools_reach_it(shape: str, stream: bool) -> None:
    model = Model([("expand_document", {"handle": "x"}), ("look", {"tank": 1})])
    with fronted(model) as url:
        text, names, _ = ask(url, shape, stream)
    assert (text, names) == ("word1 ", ["look"])
    assert len(model.bodies) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_handle_that_is_gone_is_said_to_the_model(shape: str) -> None:
    model = Model([("expand_document", {"handle": "aaaaaaaaaaaa"})])
    with fronted(model) as url:
        ask(url, shape, False)
    assert "are gone" in json.dumps(model.bodies[1])


def test_a_model_that_only_expands_is_stopped() -> None:
    model = Model(*[[("expand_document", {"handle": "x"})]] * 50)
    with fronted(model) as url:
        _, names, _ = ask(url, "chat", False)
    assert names == []
    assert len(model.bodies) == 9


@pytest.mark.parametrize("more", [{"tool_choice": "none"}, {"n": 2}])
def test_where_the_tool_cannot_be_answered_it_is_not_offered(more: dict[str, Any]) -> None:
    model = Model()
    with fronted(model) as url:
        ask(url, "chat", False, **more)
    assert "tools" not in model.bodies[0]


def test_a_streamed_response_is_continued_from_its_last_round() -> None:
    model = Model([("expand_document", {"handle": "x"})])
    with fronted(model) as url:
        ask(url, "responses", True)
        ask(url, "responses", False, previous_response_id="rword1 ")
    assert model.bodies[-1]["previous_response_id"] == "rword2 "


def test_without_the_option_nothing_is_added() -> None:
    model = Model()
    with model.running() as upstream, served(fronting(upstream), Light()) as url:
        ask(url, "chat", False)
    assert "tools" not in model.bodies[0]


@pytest.mark.parametrize("stream", [False, True])
def test_the_official_client_parses_chats_and_responses(stream: bool) -> None:
    model = Model([("expand_document", {"handle": "x"})], [], [("expand_document", {"handle": "x"})], [])
    with fronted(model) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        chat = client.chat.completions.create(model="big", messages=exchange("chat", 0, result_of(0)), stream=stream)
        if stream:
            pieces = [chunk.choices[0].delta.content or "" for chunk in chat if chunk.choices]
            assert "".join(pieces) == "word1 word2 "
        else:
            assert chat.choices[0].message.content == "word2 "
        response = client.responses.create(model="big", input=exchange("responses", 0, result_of(0)), stream=stream)
        if stream:
            response = next(event.response for event in response if event.type == "response.completed")
        assert response.output_text == "word3 word4 "


def test_a_later_round_does_not_begin_the_message_again() -> None:
    later = Round("chat").following()

    def shown(delta: dict[str, Any]) -> list[Any]:
        chunk = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        return [data["choices"][0]["delta"] for _, data in later.feed(None, chunk)]

    assert shown({"role": "assistant", "content": ""}) == []
    assert shown({"content": "word"}) == [{"content": "word"}]
