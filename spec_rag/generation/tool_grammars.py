"""What an answer is held to where it has to be a tool call, may be one, or is one or an answer of a given form.

Grammars are written in llguidance's dialect of Lark. This module does not know how calls are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from spec_rag.generation.structured_output import JSON_OBJECT, JSON_STYLE, Constraint, closed_schema

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_NAME = '{"name": "'
_ARGUMENTS = '", "arguments": '


def beginning_of_call(choice: str, names: Sequence[str]) -> str:
    """The first characters of an answer that has to be a call of the chosen tool ("any" of them)."""
    name = names[0] if choice == "any" and len(names) == 1 else choice
    return f"{OPENING}\n{_NAME}" + ("" if name == "any" else f"{name}{_ARGUMENTS}")


def forced_call(tools: Sequence[Mapping[str, Any]], chosen: str) -> Constraint:
    """What follows the beginning of a forced call: arguments that fit, and the end of the call.

    Args:
        tools: as OpenAI's API has them.
        chosen: a tool's name, or "any" of them.

    Raises:
        ConfigError: a schema cannot be read.
    """
    functions = _functions(tools)
    if chosen != "any":
        functions = {chosen: functions[chosen]}
    if len(functions) > 1:
        return _lark(f"start: ({_named(functions)}) {_text(_end())}", functions)
    (parameters,) = functions.values()
    return _lark(f"start: {_json(parameters)} {_text(_end())}", functions)


def calls_in_text(tools: Sequence[Mapping[str, Any]], single: bool) -> Constraint:
    """Any text in which each call is one of these tools with arguments that fit.

    Args:
        tools: as OpenAI's API has them.
        single: whether the answer ends with its first call.

    Raises:
        ConfigError: a schema cannot be read.
    """
    functions = _functions(tools)
    start = "start: TEXT | call" if single else "start: call* TEXT"
    return _lark(
        f"{start}\n"
        f"call: opening {_text(f'{chr(10)}{_NAME}')} ({_named(functions)}) {_text(_end())}\n"
        f"opening[lazy]: TEXT {_text(OPENING)}\n"
        "TEXT: /(.|\\n)*/",
        functions,
    )


def call_or_answer(tools: Sequence[Mapping[str, Any]], form: Constraint, single: bool) -> Constraint:
    """Calls of these tools, or an answer of that form.

    A call is written between its tags, or as bare JSON with "arguments" or "parameters", as models have learned it.

    Args:
        tools: as OpenAI's API has them.
        form: what the answer is held to; a JSON schema or a regular expression.
        single: whether there is at most one call.

    Raises:
        ConfigError: a schema cannot be read.
    """
    functions = _functions(tools)
    body = _json(json.loads(form.text)) if form.kind == "json" else f"/{_slashed(form.text)}/"
    more = "" if single else f" ({_text(chr(10))} tagged)*"
    # as JSON schemas: a literal that begins as the answer does would be read to its end before the two part
    bare = [
        _json(call)
        for name, parameters in functions.items()
        for key in ("arguments", "parameters")
        if (call := _call_schema(name, key, parameters))
    ]
    return _lark(
        f"start: {' | '.join([body, *bare])} | tagged{more}\n"
        f"tagged: {_text(f'{OPENING}{chr(10)}{_NAME}')} ({_named(functions)}) {_text(_end())}",
        functions,
    )


def _functions(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {tool["function"]["name"]: tool["function"].get("parameters") or JSON_OBJECT for tool in tools}


def _named(functions: Mapping[str, Any]) -> str:
    """What follows the opening quote of a call's name: the name, and arguments of that tool."""
    return " | ".join(f"{_text(name + _ARGUMENTS)} {_json(parameters)}" for name, parameters in functions.items())


def _call_schema(name: str, key: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema of a call as JSON; None where the parameters refer to other places than their definitions."""
    if re.search(r'"\$ref": "#(?!/(?:\$defs|definitions)/)', json.dumps(parameters)):
        return None
    definitions = {word: parameters[word] for word in ("$defs", "definitions") if word in parameters}
    rest = {word: value for word, value in parameters.items() if word not in ("$defs", "definitions")}
    return {
        "type": "object",
        "properties": {"name": {"const": name}, key: closed_schema(rest)},
        "required": ["name", key],
        "additionalProperties": False,
        **definitions,
    }


def _json(schema: Any) -> str:
    return f"%json {json.dumps({**closed_schema(schema), 'x-guidance': JSON_STYLE}, ensure_ascii=False)}"


def _text(text: str) -> str:
    return json.dumps(text)


def _slashed(regex: str) -> str:
    """The expression between slashes, which end it."""
    return regex.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n")


def _end() -> str:
    return f"}}\n{CLOSING}"


def _lark(grammar: str, functions: Mapping[str, Any]) -> Constraint:
    return Constraint("lark", grammar, strict=False).checked("tools", list(functions))
