"""Tool calls in a model's text: what asks for one, and how one is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spec_rag.errors import ConfigError
from spec_rag.generation.tool_calls import (
    CallsHeldBack,
    ToolCall,
    ToolChoice,
    beginning_of_call,
    chosen_tool,
    read_tool_calls,
    tool_names,
)

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("search", "add")]


def read(text: str) -> tuple[str, list[tuple[str, dict[str, Any]]], list[str]]:
    found = read_tool_calls(text)
    return found.text, [(c.name, c.arguments) for c in found.calls], [u.text for u in found.unreadable]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Just text.", ("Just text.", [], [])),
        (
            'I look.\n<tool_call>\n{"name": "search", "arguments": {"q": "mule"}}\n</tool_call>',
            ("I look.", [("search", {"q": "mule"})], []),
        ),
        (
            '<tool_call>{"name": "a", "arguments": {}}</tool_call> and <tool_call>{"name": "b"}</tool_call>',
            (" and", [("a", {}), ("b", {})], []),
        ),
        ('{"name": "add", "parameters": {"a": 3}}', ("", [("add", {"a": 3})], [])),
        ('[{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]', ("", [("a", {}), ("b", {})], [])),
        (
            '{"type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}',
            ("", [("add", {"a": 1})], []),
        ),
        ('{"name": "add", "arguments": {}} I have called it.', ("", [("add", {})], [])),
        ('<tool_call>{"name": "add", "arguments": {"a": 1}}', ("", [("add", {"a": 1})], [])),  # its end was cut off
        ('{"setup": "Why?", "punchline": "So."}', ('{"setup": "Why?", "punchline": "So."}', [], [])),
        ("[1, 2]", ("[1, 2]", [], [])),
        ("{broken", ("{broken", [], [])),
    ],
)
def test_an_answer_is_taken_apart_into_text_and_calls(text: str, expected: Any) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "add", "arguments": {"a":',
        '{"name": 3, "arguments": {}}',
        '{"name": "a", "arguments": [1]}',
        '{"name": "a", "arguments": "not json"}',
        "add(1)",
        "[3]",
        "[" * 100_000,
    ],
)
def test_half_a_call_is_never_taken_for_a_whole_one(body: str) -> None:
    text, calls, unreadable = read(f"First. <tool_call>{body}</tool_call>")
    assert (text, calls, unreadable) == ("First.", [], [f"<tool_call>{body}"])


def test_a_call_is_written_as_openai_has_it_with_an_id_of_nine_letters_and_digits() -> None:
    call = ToolCall("search", {"q": "Straße"})
    written = call.to_dict()
    assert written["function"]["name"] == "search"
    assert json.loads(written["function"]["arguments"]) == {"q": "Straße"}
    assert "Straße" in written["function"]["arguments"]
    assert written["id"] == call.id
    assert len(call.id) == 9
    assert call.id.isalnum()
    assert ToolCall("search", {}).id != call.id


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        *[(choice, None) for choice in (None, False, "auto")],
        *[(choice, "any") for choice in (True, "any", "required")],
        ("none", "none"),
        ("add", "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
        ({"name": "add"}, "add"),
    ],
)
def test_a_choice_is_read_in_every_spelling(choice: Any, expected: str | None) -> None:
    assert chosen_tool(choice, tool_names(TOOLS)) == expected


def test_a_choice_of_an_unknown_tool_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="tool_choice='mul': the tools are search, add"):
        chosen_tool("mul", tool_names(TOOLS))


def test_a_forced_call_is_begun_as_far_as_it_is_known() -> None:
    assert beginning_of_call("add", ["search", "add"]) == '<tool_call>\n{"name": "add", "arguments": '
    assert beginning_of_call("any", ["search", "add"]) == '<tool_call>\n{"name": "'
    assert beginning_of_call("any", ["add"]) == '<tool_call>\n{"name": "add", "arguments": '


def test_tools_are_offered_unless_the_choice_is_none() -> None:
    assert ToolChoice.of(TOOLS, "auto") == ToolChoice(TOOLS, "")
    assert ToolChoice.of(TOOLS, "add").beginning.endswith('"add", "arguments": ')
    assert ToolChoice.of(TOOLS, "none") == ToolChoice()
    assert ToolChoice.of([], "any") == ToolChoice.of(None, None) == ToolChoice()


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("A plain answer < with > signs.", "A plain answer < with > signs.", 0),
        (f"I look. {CALL}", "I look.", 1),
        (CALL, "", 1),
        ('{"name": "add", "arguments": {}}', "", 1),
        ('{"no": "call"}', '{"no": "call"}', 0),
        ("almost <tool_cal", "almost <tool_cal", 0),
    ],
)
def test_a_stream_shows_the_text_and_no_part_of_a_call(size: int, text: str, shown: str, calls: int) -> None:
    held = CallsHeldBack()
    pieces = [held.feed(text[i : i + size]) for i in range(0, len(text), size)]
    assert not any("{" in piece for piece in pieces if "name" in text)
    rest = held.rest()
    assert "".join(pieces) + rest.text == shown
    assert len(rest.calls) == calls


def test_what_the_answer_was_begun_with_is_part_of_the_call() -> None:
    held = CallsHeldBack('<tool_call>\n{"name": "add", "arguments": ')
    assert held.feed('{"a": 1}}\n</tool_call>') == ""
    (call,) = held.rest().calls
    assert (call.name, call.arguments) == ("add", {"a": 1})
