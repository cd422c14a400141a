"""Tool calls in a model's text: what asks for one, and how one is read."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from spec_rag.errors import ConfigError
from spec_rag.generation.tool_calls import (
    ToolCall,
    ToolCallStreamParser,
    ToolChoice,
    chosen_tool,
    read_tool_calls,
    tool_names,
)
from spec_rag.generation.tool_grammars import call_prefix

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("search", "add", "a", "b")]


def read(text: str, tools: Any = TOOLS, **options: Any) -> tuple[str, list[tuple[str, dict[str, Any]]], list[str]]:
    found = read_tool_calls(text, tools, **options)
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
        (
            '<tool_call>{"name": "a", "arguments": {"t": "</tool_call> <tool_call>"}}}</tool_call> Done.',
            (" Done.", [("a", {"t": "</tool_call> <tool_call>"})], []),
        ),
        (
            '<tool_call>{"name": "a", "arguments": {}}\n<tool_call>{"name": "b", "arguments": {}}',  # not closed
            ("", [("a", {}), ("b", {})], []),
        ),
        ('<tool_call>\n{"name": "a"}\n{"name": "b"}\n</tool_call>', ("", [("a", {}), ("b", {})], [])),
        ('<tool_call>{"name": "a"} and so on</tool_call>', ("and so on", [("a", {})], [])),
        ('{"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}', ("", [("a", {}), ("b", {})], [])),
        ('{"name": "a", "parameters": {}}\n{"note": 3}', ('{"note": 3}', [("a", {})], [])),
        ('{"name": "add", "parameters": {"a": 3}}', ("", [("add", {"a": 3})], [])),
        ('[{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]', ("", [("a", {}), ("b", {})], [])),
        (
            '{"type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}',
            ("", [("add", {"a": 1})], []),
        ),
        ('{"name": "add", "arguments": {}} I have called it.', ("I have called it.", [("add", {})], [])),
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
    assert (text, calls, unreadable) == ("First.", [], [f"<tool_call>{body}</tool_call>"])
    whole = f"First. <tool_call>{body}</tool_call> Second. "
    assert read_tool_calls(whole, TOOLS).whole_text == whole


WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
FREE = {"name": "free", "parameters": {"type": "object", "additionalProperties": {"type": "integer"}}}
OPTIONAL = {"name": "optional", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CLOSED = {"name": "closed", "parameters": {**OPTIONAL["parameters"], "additionalProperties": False}}
REFERRING = {
    "name": "referring",
    "parameters": {
        "$defs": {"n": {"type": "integer"}},
        "properties": {"n": {"$ref": "#/$defs/n"}},
        "required": ["n"],
    },
}
OFFERED = [{"type": "function", "function": one} for one in (WEATHER, FREE, OPTIONAL, CLOSED, REFERRING)]


@pytest.mark.parametrize(
    ("name", "arguments", "bare", "tagged"),
    [
        ("weather", {"city": "Rome"}, True, True),
        ("weather", {"city": "Rome", "days": 3}, True, True),
        ("weather", {"days": 3}, False, False),
        ("weather", {"city": 3}, False, False),
        ("weather", {"city": "rome"}, False, False),
        ("weather", {"city": "Rome", "days": "3"}, False, False),
        ("Weather", {"city": "Rome"}, False, False),
        ("weathers", {"city": "Rome"}, False, False),
        ("free", {"a": 1, "b": 2}, True, True),
        ("free", {"a": "x"}, False, False),
        ("optional", {}, True, True),
        ("optional", {"age": 3}, False, True),  # without a tag, a call has no keys that the tool does not name
        ("closed", {"age": 3}, False, False),
        ("referring", {"n": 3}, True, True),
        ("referring", {"n": "3"}, False, False),
    ],
)
def test_a_call_names_an_offered_tool_and_its_arguments_fit(
    name: str, arguments: Any, bare: bool, tagged: bool
) -> None:
    body = json.dumps({"name": name, "arguments": arguments})
    expected = [(name, arguments)]
    assert read(body, OFFERED) == (("", expected, []) if bare else (body, [], []))
    text = f"<tool_call>{body}</tool_call>"
    assert read(text, OFFERED) == (("", expected, []) if tagged else ("", [], [text]))
    assert read_tool_calls(text, OFFERED).whole_text == ("" if tagged else text)
    assert read(text, []) == (text, [], [])


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Ana Beck", "age": 34}',
        '{"name": "optional", "age": 34}',
        '{"name": "optional"}',
        '{"name": "optional", "description": "A tool.", "parameters": {}}',
        '[{"name": "optional", "arguments": {}}, {"name": "Ana"}]',
        '{"name": "free", "arguments": {"a": NaN}}',
        '{"name": "optional", "arguments": {"city": 1e999}}',
        "[]",
    ],
)
def test_an_answer_in_json_is_no_call(answer: str) -> None:
    assert read(answer, OFFERED) == (answer, [], [])


def test_what_is_wrong_with_a_call_is_said() -> None:
    (wrong,) = read_tool_calls('<tool_call>{"name": "weather", "arguments": {}}</tool_call>', OFFERED).unreadable
    assert wrong.name == "weather"
    assert "'city' is a required property" in wrong.error


@pytest.mark.parametrize(
    "parameters",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {
            "$defs": {f"x{i}": {"allOf": [{"$ref": f"#/$defs/x{i + 1}"}] * 2} for i in range(40)} | {"x40": {}},
            "$ref": "#/$defs/x0",
        },
        {"properties": {"a": {"pattern": "(a+)+$"}}},
        {"patternProperties": {"(a+)+$": False}},
    ],
)
def test_a_hostile_schema_ends_in_time(parameters: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    started = time.process_time()
    body = json.dumps({"name": "f", "arguments": {"a": "a" * 50 + "!", "a" * 50 + "!": 1}})
    read_tool_calls(f"<tool_call>{body}</tool_call>", tools)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("parameters", [{"type": "any"}, {"properties": 3}, {"$ref": "http://127.0.0.1:1/x.json"}])
def test_a_schema_that_cannot_be_read_lets_every_argument_pass(parameters: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    assert read('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', tools)[1] == [("f", {"a": 1})]


def test_of_several_calls_the_first_is_taken_where_one_is_allowed() -> None:
    two = '<tool_call>{"name": "a"}</tool_call>\n<tool_call>{"name": "b"}</tool_call>'
    assert read(two, single=True) == ("", [("a", {})], [])
    assert read('[{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]', single=True)[1] == [("a", {})]


def test_arguments_with_half_a_surrogate_pair_can_be_sent() -> None:
    (call,) = read_tool_calls('<tool_call>{"name": "a", "arguments": {"t": "\\ud800"}}</tool_call>', TOOLS).calls
    assert json.loads(call.arguments_json.encode()) == {"t": "\ud800"}


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


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("mode", "begun"), [("auto", False), ("required", True)])
def test_allowed_tools_are_the_ones_offered(nested: bool, mode: str, begun: bool) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "add"}}]}
    choice = ToolChoice.of(TOOLS, {"type": "allowed_tools", **({"allowed_tools": allowed} if nested else allowed)})
    assert tool_names(choice.offered) == ["add"]
    assert bool(choice.assistant_prefix) is begun
    for wrong in ({"mode": "auto", "tools": []}, {"mode": "some", "tools": allowed["tools"]}):
        with pytest.raises(ConfigError, match="allowed_tools"):
            ToolChoice.of(TOOLS, {"type": "allowed_tools", "allowed_tools": wrong})
    with pytest.raises(ConfigError, match="the tools are"):
        ToolChoice.of(TOOLS, {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"name": "x"}]}})


def test_a_named_tool_is_the_only_one_that_is_read() -> None:
    choice = ToolChoice.of(TOOLS, "add")
    read = choice.read('{}}\n</tool_call> <tool_call>{"name": "search"}</tool_call>')
    assert [call.name for call in read.calls] == ["add"]


@pytest.mark.parametrize("tool", [{"type": "web_search"}, {"type": "function", "function": {}}, {"function": None}])
def test_what_is_no_function_is_refused(tool: Any) -> None:
    with pytest.raises(ConfigError, match="is no function"):
        ToolChoice.of([tool], None)


def test_tools_that_are_nested_too_deeply_are_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(900):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(ConfigError, match="64 levels"):
        ToolChoice.of([{"type": "function", "function": {"name": "f", "parameters": schema}}], None)


def test_a_forced_call_is_begun_as_far_as_it_is_known() -> None:
    assert call_prefix("add", ["search", "add"]) == '<tool_call>\n{"name": "add", "arguments": '
    assert call_prefix("any", ["search", "add"]) == '<tool_call>\n{"name": "'
    assert call_prefix("any", ["add"]) == '<tool_call>\n{"name": "add", "arguments": '


def test_tools_are_offered_unless_the_choice_is_none() -> None:
    assert ToolChoice.of(TOOLS, "auto") == ToolChoice(TOOLS, "")
    assert ToolChoice.of(TOOLS, "add").assistant_prefix.endswith('"add", "arguments": ')
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
        ("  two  spaces  ", "  two  spaces  ", 0),
        ("<tool_call>{}</tool_call> no call ", "<tool_call>{}</tool_call> no call ", 0),
        (f"I look. {CALL} Found. ", "I look.  Found.", 1),
        (f"{CALL[11:-13]} Found.", "Found.", 1),
    ],
)
def test_a_stream_shows_the_text_and_no_part_of_a_call(size: int, text: str, shown: str, calls: int) -> None:
    held = ToolCallStreamParser(ToolChoice(TOOLS))
    pieces = [held.feed(text[i : i + size]) for i in range(0, len(text), size)]
    assert not any("{" in piece for piece in pieces if "name" in text)
    rest = held.rest()
    assert "".join(pieces) + rest.whole_text == shown
    assert len(rest.calls) == calls


def test_what_the_answer_was_begun_with_is_part_of_the_call() -> None:
    held = ToolCallStreamParser(ToolChoice(TOOLS, '<tool_call>\n{"name": "add", "arguments": '))
    assert held.feed('{"a": 1}}\n</tool_call>') == ""
    (call,) = held.rest().calls
    assert (call.name, call.arguments) == ("add", {"a": 1})
