"""Other ways to write the same chat, for templates that drop or refuse some of its turns.

Every arrangement holds the text of all messages in their order. This module does not know tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

Turns: TypeAlias = list[dict[str, Any]]


def arrangements(turns: Turns) -> Iterator[Turns]:
    """The turns as they are, then the same chat with system texts in user turns, and opened by the user."""
    tried: list[Turns] = []
    for system in (turns, with_leading_system_turn(turns), without_system_turn(turns)):
        for arranged in (system, opened_by_user(system)):
            if arranged not in tried:
                tried.append(arranged)
                yield arranged


def without_system_turn(turns: Sequence[dict[str, Any]]) -> Turns:
    """The same turns for a template without a system role: the user says its text, in the same place."""
    return joined_turns([{**turn, "role": "user"} if turn["role"] == "system" else turn for turn in turns])


def with_leading_system_turn(turns: Sequence[dict[str, Any]]) -> Turns:
    """The same turns for a template that knows a system turn at the beginning alone."""
    leading = 1 if turns and turns[0]["role"] == "system" else 0
    return [*turns[:leading], *without_system_turn(turns[leading:])]


def opened_by_user(turns: Sequence[dict[str, Any]]) -> Turns:
    """The same turns with an empty user turn in front of an assistant that speaks first."""
    leading = 1 if turns and turns[0]["role"] == "system" else 0
    if len(turns) > leading and turns[leading]["role"] != "user":
        return [*turns[:leading], {"role": "user", "content": ""}, *turns[leading:]]
    return list(turns)


def with_calls_apart(turns: Sequence[dict[str, Any]]) -> Turns:
    """The same turns with what the assistant says in front of its tool calls in a turn of its own."""
    apart: Turns = []
    for turn in turns:
        if turn.get("tool_calls") and turn["content"]:
            apart.append({"role": turn["role"], "content": turn["content"]})
            turn = {**turn, "content": ""}
        apart.append(turn)
    return apart


def in_parts(turns: Sequence[dict[str, Any]]) -> Turns:
    """The same turns with each content as a list of text blocks, as multimodal templates read it."""
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


def joined_turns(turns: Sequence[dict[str, Any]]) -> Turns:
    """Neighbours of one role as one turn; tool results stay apart."""
    joined: Turns = []
    for turn in turns:
        if joined and turn["role"] == joined[-1]["role"] != "tool":
            joined[-1] = _joined(joined[-1], turn)
        else:
            joined.append(dict(turn))
    return joined


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    content = "\n\n".join(part for part in (first["content"], second["content"]) if part)
    calls = [*first.get("tool_calls", []), *second.get("tool_calls", [])]
    return {**first, "content": content, **({"tool_calls": calls} if calls else {})}
