"""From LangChain's messages to the turns of a chat template.

This module knows roles and contents; it does not know tokens or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

_MEDIA = ("image", "audio", "video", "file", "document", "media")


def template_turns(messages: Sequence[BaseMessage], *, speaks_of_tools: bool) -> list[dict[str, Any]]:
    """Turns with "role" and "content"; neighbours of one role become one turn, which many templates insist on.

    Args:
        messages: the chat.
        speaks_of_tools: whether the template knows tool calls and results. Where it does not, a tool's result is told
            by the user, and a turn that only called tools is left out.

    Raises:
        ValueError: there are no messages, or one of them is of a kind that a text model cannot read.
    """
    if not messages:
        raise ValueError("messages=[]: give at least one message.")
    called = {call["id"]: call["name"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls}
    turns: list[dict[str, Any]] = []
    for message in messages:
        turn = _turn(message, called, speaks_of_tools)
        if turn is None:
            continue
        if turns and turn["role"] == turns[-1]["role"] != "tool":
            turns[-1] = _merged(turns[-1], turn)
        else:
            turns.append(turn)
    return turns


def without_system_turn(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same turns for a template without a system role: its text opens the user's first turn."""
    system = [turn["content"] for turn in turns if turn["role"] == "system"]
    rest = [dict(turn) for turn in turns if turn["role"] != "system"]
    if not rest or rest[0]["role"] != "user":
        rest.insert(0, {"role": "user", "content": ""})
    rest[0]["content"] = "\n\n".join(part for part in [*system, rest[0]["content"]] if part)
    return rest


def text_of(message: BaseMessage) -> str:
    """The message's text.

    Raises:
        ValueError: it carries an image, audio, video or file.
    """
    if isinstance(message.content, str):
        return message.content
    texts = []
    for block in message.content:
        kind = "text" if isinstance(block, str) else str(block.get("type", ""))
        if any(kind.startswith(media) or kind.endswith(media) for media in _MEDIA):
            raise ValueError(f"A {message.type} message carries a block of type {kind!r}: this model reads text alone.")
        if isinstance(block, str):
            texts.append(block)
        elif kind == "text":
            texts.append(str(block.get("text", "")))
    return "\n".join(texts)


def role_and_content(message: Any) -> dict[str, str]:
    """A message of a chat history as `spec_rag.compress` reads it; dicts and (role, content) pairs are passed on."""
    if isinstance(message, Mapping):
        return dict(message)
    if isinstance(message, tuple):
        return {"role": message[0], "content": message[1]}
    roles = {"human": "user", "ai": "assistant"}
    role = message.role if isinstance(message, ChatMessage) else roles.get(message.type, message.type)
    return {"role": role, "content": text_of(message)}


def _turn(message: BaseMessage, called: Mapping[str | None, str], speaks_of_tools: bool) -> dict[str, Any] | None:
    content = text_of(message)
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": content}
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": content}
    if isinstance(message, AIMessage):
        return _assistant_turn(message, content, speaks_of_tools)
    if isinstance(message, ToolMessage | FunctionMessage):
        name = message.name or called.get(getattr(message, "tool_call_id", None)) or "tool"
        if speaks_of_tools:
            identity = {"tool_call_id": message.tool_call_id} if isinstance(message, ToolMessage) else {}
            return {"role": "tool", "name": name, "content": content, **identity}
        return {"role": "user", "content": f"Result of {name}:\n{content}"}
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": content}
    raise ValueError(f"A {type(message).__name__} has no place in a prompt: give system, human, ai and tool messages.")


def _assistant_turn(message: AIMessage, content: str, speaks_of_tools: bool) -> dict[str, Any] | None:
    if not message.tool_calls:
        return {"role": "assistant", "content": content}
    if not speaks_of_tools:
        return {"role": "assistant", "content": content} if content else None
    calls = [
        {"type": "function", "id": call["id"], "function": {"name": call["name"], "arguments": call["args"]}}
        for call in message.tool_calls
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    content = "\n\n".join(part for part in (first["content"], second["content"]) if part)
    calls = [*first.get("tool_calls", []), *second.get("tool_calls", [])]
    return {**first, "content": content, **({"tool_calls": calls} if calls else {})}
