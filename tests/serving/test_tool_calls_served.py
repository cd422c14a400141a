"""Tool calls in the server's answers, whole and streamed, as the openai client reads them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from serving.helpers import MODEL, served

from spec_rag.results import Answer
from spec_rag.serving.engine import GenerationRequest, LocalEngine

openai = pytest.importorskip("openai")

ASK = [{"role": "user", "content": "How much water does tank 3 hold?"}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def written(monkeypatch: pytest.MonkeyPatch, text: str) -> list[GenerationRequest]:
    """Let the server's model write this text; what was asked of it is noted."""
    asked: list[GenerationRequest] = []

    async def answer(self: LocalEngine, ask: GenerationRequest) -> Answer:
        asked.append(ask)
        return Answer(text, [1], 5, 5, 3)

    async def stream(self: LocalEngine, ask: GenerationRequest):  # type: ignore[no-untyped-def]
        for i in range(0, len(text), 7):
            yield text[i : i + 7]
        yield await answer(self, ask)

    monkeypatch.setattr(LocalEngine, "answer", answer)
    monkeypatch.setattr(LocalEngine, "stream", stream)
    return asked


def both_ways(client: openai.OpenAI, **given: Any) -> list[tuple[str, list[str], str]]:
    """Content, arguments of the calls and finish reason, whole and streamed."""
    given = {"model": MODEL, "messages": ASK, "tools": [WEATHER], **given}
    whole = client.chat.completions.create(**given).choices[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**given, stream=True)]
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    return [
        (
            whole.message.content or "",
            [c.function.arguments for c in whole.message.tool_calls or ()],
            whole.finish_reason,
        ),
        (
            "".join(chunk.delta.content or "" for chunk in chunks),
            [call.function.arguments for call in calls],
            chunks[-1].finish_reason,
        ),
    ]


CALLED = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bergen"}}\n</tool_call>'
UNFIT = CALLED.replace('"Bergen"', "3")
ARGUMENTS = '{"city": "Bergen"}'


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ('{"name": "Ana Beck", "age": 34}', {}, ('{"name": "Ana Beck", "age": 34}', [], "stop")),
        (CALLED.replace("weather", "Weather"), {}, (CALLED.replace("weather", "Weather"), [], "stop")),
        (f"Hm. {UNFIT} So. ", {}, (f"Hm. {UNFIT} So. ", [], "stop")),
        (CALLED, {"tool_choice": "none"}, (CALLED, [], "stop")),
        (f"{CALLED}\n{CALLED}", {}, ("", [ARGUMENTS, ARGUMENTS], "tool_calls")),
        (f"{CALLED}\n{CALLED}", {"parallel_tool_calls": False}, ("", [ARGUMENTS], "tool_calls")),
        (f"I look. {CALLED} Then I answer.", {}, ("I look.  Then I answer.", [ARGUMENTS], "tool_calls")),
    ],
)
def test_only_calls_of_offered_tools_are_calls_and_the_rest_is_the_answer(
    monkeypatch: pytest.MonkeyPatch, text: str, options: dict[str, Any], expected: Any
) -> None:
    written(monkeypatch, text)
    with served() as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        assert both_ways(client, **options) == [expected, expected]


def test_tools_beside_a_response_format_may_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = written(monkeypatch, CALLED)
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"properties": {"a": {}}}}}
    with served() as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        assert both_ways(client, response_format=form) == [("", [ARGUMENTS], "tool_calls")] * 2
    constraint = asked[0].options["constraint"]
    assert constraint.kind == "lark"
    assert "<tool_call>" in constraint.text
    assert "Call tools" in asked[0].prompt[0]["content"]


def test_strict_tools_hold_every_call_to_their_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = written(monkeypatch, CALLED)
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    with served() as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        assert both_ways(client, tools=[strict])[0][1] == [ARGUMENTS]
    assert asked[0].options["constraint"].kind == "lark"


@pytest.mark.parametrize("levels", [70, 400, 900])
@pytest.mark.parametrize("field", ["tools", "response_format", "arguments", "arguments_text", "metadata"])
def test_deep_nesting_is_a_bad_request(field: str, levels: int) -> None:
    deep = "DEEP"  # put in as text: Python's own encoder is recursive
    opening, closing = '{"type": "object", "properties": {"a": ', "}}"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body: dict[str, Any] = {"model": MODEL, "messages": [*ASK]}
    if field == "tools":
        body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {"a": deep}}}]
    elif field == "response_format":
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"a": deep}}}
    elif field == "metadata":
        body["metadata"] = {"a": deep}
    else:
        call["function"]["arguments"] = '{"a":' * levels + "1" + "}" * levels if field == "arguments_text" else deep
        body["messages"] = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}, *ASK]
    sent = json.dumps(body).replace('"DEEP"', opening * levels + "1" + closing * levels)
    with served() as url:
        found = httpx.post(
            f"{url}/v1/chat/completions", content=sent, headers={"Content-Type": "application/json"}, timeout=60
        )
    # metadata is read and left alone
    assert found.status_code in ((200, 400) if field == "metadata" else (400,)), found.text
