"""In front of another server, tool results are shortened in all three shapes of API, once and for all."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from serving.helpers import Light, served, settings
from serving.recording_upstream import Recorder
from tool_results import test_kinds as samples

from spec_rag.errors import OutOfMemoryError
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.tool_results import ToolResultOptions
from spec_rag.serving.conversations import without
from spec_rag.serving.request_texts import RequestTexts
from spec_rag.serving.settings import ServerSettings

SHAPES = {"chat": "chat/completions", "responses": "responses", "messages": "messages"}


def fronting(upstream: str, **given: Any) -> ServerSettings:
    return settings(target=None, upstream=upstream, compression=CompressionConfig(ratio=0.3), **given)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def front(recorder: Recorder) -> Iterator[str]:
    with recorder.running() as upstream, served(fronting(upstream), Light()) as url:
        yield url


def result_of(turn: int) -> str:
    return " ".join(f"Tank {turn}-{i} holds {turn * 100 + i} litres of water." for i in range(20))


def exchange(shape: str, turn: int, result: Any) -> list[dict[str, Any]]:
    """A question, a call and its result, as the shape has them."""
    question, arguments = f"How much does tank {turn} hold?", {"tank": turn}
    if shape == "chat":
        call = {"id": f"c{turn}", "type": "function", "function": {"name": "look", "arguments": json.dumps(arguments)}}
        return [
            {"role": "user", "content": question},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"c{turn}", "content": result},
        ]
    if shape == "responses":
        return [
            {"role": "user", "content": [{"type": "input_text", "text": question}]},
            {"type": "function_call", "call_id": f"c{turn}", "name": "look", "arguments": json.dumps(arguments)},
            {"type": "function_call_output", "call_id": f"c{turn}", "output": result},
        ]
    content = [{"type": "text", "text": result}] if turn % 2 and isinstance(result, str) else result
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": [{"type": "tool_use", "id": f"c{turn}", "name": "look", "input": arguments}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"c{turn}", "content": content}]},
    ]


def body_of(shape: str, items: list[Any]) -> bytes:
    rest = {"model": "big", "unknown": {"a": "1e999"}, "max_tokens": 5}
    items_name = "input" if shape == "responses" else "messages"
    return json.dumps({items_name: items, **rest}).replace('"1e999"', "1e999").encode()


def post(url: str, shape: str, items: list[Any]) -> httpx.Response:
    body = body_of(shape, items)
    return httpx.post(f"{url}/v1/{SHAPES[shape]}", content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize("shape", SHAPES)
def test_the_call_and_the_turn_are_found_for_every_result(shape: str) -> None:
    items = [*exchange(shape, 1, "x"), *exchange(shape, 2, "y")]
    read = RequestTexts.of(shape, json.loads(body_of(shape, items).replace(b"1e999", b"1")))  # type: ignore[arg-type]
    assert [text.text for text in read.texts] == ["x", "y"]
    assert [(text.tool, text.place) for text in read.texts] == [("look", 2), ("look", 5)]
    assert [str(text.arguments).replace("'", '"') for text in read.texts] == ['{"tank": 1}', '{"tank": 2}']


@pytest.mark.parametrize("shape", SHAPES)
def test_thirty_turns_keep_their_prefix_and_cost_less_than_without(shape: str, recorder: Recorder, front: str) -> None:
    """A provider's rule: what a request shares with the one before costs a tenth."""
    items: list[Any] = []
    plain: list[bytes] = []
    for turn in range(30):
        items += exchange(shape, turn, result_of(turn))
        answer = post(front, shape, items)
        assert answer.status_code == 200
        assert 0 < int(answer.headers["x-spec-rag-tokens-after"]) < int(answer.headers["x-spec-rag-tokens-before"])
        plain.append(body_of(shape, items))
        items.append({"role": "assistant", "content": f"It is {turn}."})
        if turn == 2:
            assert cost([request.body for request in recorder.requests]) <= cost(plain)
    bodies = [request.body for request in recorder.requests]
    for body, before in zip(bodies, plain, strict=True):
        assert b'"unknown": {"a": 1e999}' in body
        assert len(body) < len(before)
    for earlier, later in pairwise(bodies):
        shared = earlier[: earlier.rindex(b"]", 0, earlier.rindex(b'"model"'))]
        assert later.startswith(shared)
    assert cost(bodies) < 0.7 * cost(plain)
    assert "[… ".encode() in bodies[-1]


def cost(bodies: list[bytes]) -> float:
    total = float(len(bodies[0]))
    for before, body in pairwise(bodies):
        shared = len(os.path.commonprefix([before, body]))  # noqa: RUF071
        total += 0.1 * shared + len(body) - shared
    return total


@pytest.mark.parametrize("shape", SHAPES)
def test_short_conversations_pass_byte_for_byte_and_say_why(shape: str, recorder: Recorder, front: str) -> None:
    items = exchange(shape, 0, "short")
    answer = post(front, shape, items)
    assert recorder.requests[-1].body == body_of(shape, items)
    assert answer.headers["x-spec-rag-not-shortened"] == "short=1"


@pytest.mark.parametrize(
    ("shape", "content", "reason"),
    [
        ("messages", [{"type": "image", "source": {"type": "base64", "data": "x" * 500}}], "image=1"),
        ("chat", [{"type": "image_url", "image_url": {"url": "data:" + "x" * 500}}], "image_url=1"),
        ("responses", [{"type": "input_image", "image_url": "data:" + "x" * 500}], "input_image=1"),
        ("chat", samples.GREP, None),
        ("chat", samples.LS, "listing-stays-whole=1"),
        ("chat", 7, "other=1"),
    ],
)
def test_content_that_is_not_shortened_is_forwarded_with_a_header(
    shape: str, content: Any, reason: str | None, recorder: Recorder, front: str
) -> None:
    items = exchange(shape, 0, content)
    answer = post(front, shape, items)
    assert answer.headers.get("x-spec-rag-not-shortened") == reason
    assert (recorder.requests[-1].body == body_of(shape, items)) == (reason is not None)


def test_other_routes_and_conversations_without_a_question_say_so(recorder: Recorder, front: str) -> None:
    assert httpx.post(f"{front}/v1/embeddings", json={}).headers["x-spec-rag-not-shortened"] == "route"
    call_less = [{"type": "function_call_output", "call_id": "c", "output": result_of(1)}]
    assert post(front, "responses", call_less).headers["x-spec-rag-not-shortened"] == "no-question=1"
    assert post(front, "responses", ["?"]).status_code == 200
    assert httpx.post(f"{front}/v1/responses", json={"input": "Hi"}).status_code == 200


def test_results_of_errors_and_of_fetching_stay_whole(recorder: Recorder, front: str) -> None:
    items = exchange("messages", 0, result_of(0))
    items[2]["content"][0]["is_error"] = True
    assert post(front, "messages", items).headers["x-spec-rag-not-shortened"] == "error=1"
    items = exchange("chat", 0, result_of(0))
    items[1]["tool_calls"][0]["function"]["name"] = "expand_document"
    assert post(front, "chat", items).headers["x-spec-rag-not-shortened"] == "fetched-back=1"
    assert result_of(0).encode() in recorder.requests[-1].body


class Faulty(Light):
    """An engine that fails, or does not answer in time."""

    def __init__(self, fault: Exception | None) -> None:
        self.fault = fault

    async def compress(self, *given: Any, **options: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        await asyncio.sleep(60)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OutOfMemoryError("full"), "out-of-memory"),
        (OSError("index is gone"), "error-OSError"),
        (ValueError("bad"), "error-ValueError"),
        (None, "deadline"),
    ],
)
def test_a_fault_never_takes_the_turn_down(shape: str, fault: Any, reason: str, recorder: Recorder) -> None:
    own = Faulty(fault)
    options = ToolResultOptions(deadline_seconds=0.3 if fault is None else 60)
    with recorder.running() as upstream:
        with served(fronting(upstream, tool_results=options), own) as url:
            items = exchange(shape, 0, result_of(0))
            for _ in range(2):
                answer = post(url, shape, items)
                assert answer.status_code == 200
                assert answer.headers["x-spec-rag-not-shortened"] == f"{reason}=1"
                assert recorder.requests[-1].body == body_of(shape, items)
            metrics = httpx.get(f"{url}/metrics").text
            assert f'spec_rag_not_shortened_total{{reason="{reason}"}} 2.0' in metrics
            if shape == "chat":
                given = {"messages": [{"role": "user", "content": "Why?"}], "documents": ["A whole document."]}
                assert httpx.post(f"{url}/v1/chat/completions", json=given).status_code == 200
                assert b"A whole document.\\n\\nWhy?" in recorder.requests[-1].body
        strict = ToolResultOptions(deadline_seconds=0.3, on_error="raise")
        with served(fronting(upstream, tool_results=strict), own) as url:
            assert post(url, shape, items).status_code >= 400


def test_an_audit_forwards_the_original_and_counts_what_would_be_saved(recorder: Recorder) -> None:
    with recorder.running() as upstream, served(fronting(upstream, audit=True), Light()) as url:
        items = exchange("chat", 0, result_of(0))
        answer = post(url, "chat", items)
        assert recorder.requests[-1].body == body_of("chat", items)
        saved = int(answer.headers["x-spec-rag-tokens-before"]) - int(answer.headers["x-spec-rag-tokens-after"])
        assert answer.headers["x-spec-rag-mode"] == "audit"
        assert f"spec_rag_audit_tokens_saved_total {float(saved)}" in httpx.get(f"{url}/metrics").text
        assert saved > 0


@pytest.mark.parametrize(
    ("spans", "taken", "left"),
    [
        ([(50, 60), (70, 80)], [(0, 100), (10, 20)], []),
        ([(0, 10), (20, 30)], [(5, 25)], [(0, 5), (25, 30)]),
        ([(0, 10)], [(2, 3), (4, 5)], [(0, 2), (3, 4), (5, 10)]),
        ([(0, 10), (12, 14)], [], [(0, 10), (12, 14)]),
        ([], [(0, 1)], []),
    ],
)
def test_what_was_shown_is_taken_out_of_spans(spans: Any, taken: Any, left: Any) -> None:
    assert without(spans, taken) == left


def test_taking_out_many_spans_takes_linear_time() -> None:
    spans = [(10 * i, 10 * i + 8) for i in range(100_000)]
    assert without(spans, [(10 * i + 2, 10 * i + 4) for i in range(100_000)])[:2] == [(0, 2), (4, 8)]


def test_options_of_a_request_apply_to_every_shape(recorder: Recorder, front: str) -> None:
    items = exchange("messages", 0, result_of(0))
    answers = [
        httpx.post(f"{front}/v1/messages", json={"messages": items, "spec_rag": {"ratio": ratio}})
        for ratio in (0.1, 0.8)
    ]
    few, many = (int(answer.headers["x-spec-rag-tokens-after"]) for answer in answers)
    assert few < many
    assert all(b"spec_rag" not in request.body for request in recorder.requests)
