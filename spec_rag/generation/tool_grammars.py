"""Grammars of tool calls in llguidance's dialect of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from spec_rag.generation.structured_output import JSON_OBJECT, JSON_STYLE, Constraint, closed_schema

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_NAME = '{"name": "'
_ARGUMENTS = '", "arguments": '


def call_prefix(choice: str, names: Sequence[str]) -> str:
    """The first characters of an answer that must be a call of the chosen tool, or of "any"."""
    name = names[0] if choice == "any" and len(names) == 1 else choice
    return f"{OPENING}\n{_NAME}" + ("" if name == "any" else f"{name}{_ARGUMENTS}")


def forced_call(tools: Sequence[Mapping[str, Any]], chosen: str) -> Constraint:
    """The rest of a forced call after its prefix: valid arguments, and the end of the call.

    Args:
        tools: in the format of OpenAI's API.
        chosen: a tool's name, or "any".

    Raises:
        ConfigError: a schema is invalid.
    """
    functions = _functions(tools)
    if chosen != "any":
        functions = {chosen: functions[chosen]}
    if len(functions) > 1:
        return _lark(f"start: ({_named(functions)}) {_text(_end())}", functions)
    (parameters,) = functions.values()
    return _lark(f"start: {_json(parameters)} {_text(_end())}", functions)


def calls_in_text(tools: Sequence[Mapping[str, Any]], single: bool) -> Constraint:
    """Text in which each call names one of these tools and has valid arguments.

    Args:
        tools: in the format of OpenAI's API.
        single: whether the answer ends after its first call.

    Raises:
        ConfigError: a schema is invalid.
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
    """Calls of these tools, or a structured answer.

    A call is tagged, or bare JSON with "arguments" or "parameters": models are trained on both.

    Args:
        tools: in the format of OpenAI's API.
        form: constraint of the answer, a JSON schema or a regular expression.
        single: allow at most one call.

    Raises:
        ConfigError: a schema is invalid.
    """
    functions = _functions(tools)
    body = _json(json.loads(form.text)) if form.kind == "json" else f"/{_slashed(form.text)}/"
    more = "" if single else f" ({_text(chr(10))} tagged)*"
    # as JSON schemas, not literals: llguidance would match a literal with the same start as the answer greedily
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
    """A call after the opening quote of its name: the name, and the arguments of that tool."""
    return " | ".join(f"{_text(name + _ARGUMENTS)} {_json(parameters)}" for name, parameters in functions.items())


def _call_schema(name: str, key: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON schema of a bare call; None if the parameters have references outside of their definitions."""
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
    """The expression escaped for Lark, where slashes delimit it."""
    return regex.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n")


def _end() -> str:
    return f"}}\n{CLOSING}"


def _lark(grammar: str, functions: Mapping[str, Any]) -> Constraint:
    return Constraint("lark", grammar, strict=False).checked("tools", list(functions))
