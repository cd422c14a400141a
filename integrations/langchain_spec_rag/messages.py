"""Conversion between LangChain's messages and those of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    BaseMessage,
    ChatMessage,
    InvalidToolCall,
    ToolCall,
    ToolCallChunk,
    convert_to_openai_messages,
)

from spec_rag.errors import ConfigError
from spec_rag.generation.tool_calls import ReadCalls
from spec_rag.utils.validation import check_depth


def plain_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """The messages as dicts of OpenAI's API.

    Raises:
        ConfigError: (a ValueError) there are no messages, or one has an unsupported type.
    """
    if not messages:
        raise ConfigError("messages=[]: give at least one message.")
    return [_plain(message) for message in messages]


def text_of(message: BaseMessage) -> str:
    """The message's text.

    Raises:
        ConfigError: (a ValueError) it carries an image, audio, video or file.
    """
    from spec_rag.text.messages import content_text

    return content_text(message.content, message.type)


def tool_calls(read: ReadCalls) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """Valid and invalid tool calls."""
    calls = [ToolCall(name=call.name, args=call.arguments, id=call.id, type="tool_call") for call in read.calls]
    invalid = [
        InvalidToolCall(type="invalid_tool_call", name=call.name, args=call.text, id=call.id, error=call.error)
        for call in read.unreadable
    ]
    return calls, invalid


def tool_call_chunks(read: ReadCalls) -> list[ToolCallChunk]:
    """The tool calls as chunks, for the last chunk of a stream."""
    calls = [(call.name, call.arguments_json, call.id) for call in read.calls]
    calls += [("", call.text, call.id) for call in read.unreadable]
    return [
        ToolCallChunk(name=name, args=args, id=id, index=index, type="tool_call_chunk")
        for index, (name, args, id) in enumerate(calls)
    ]


def _plain(message: Any) -> dict[str, Any]:
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": message.content}
    if isinstance(message, BaseMessage):
        text_of(message)  # refuses media
        check_depth(f"a {type(message).__name__}", [message.content, getattr(message, "tool_calls", None)])
    try:
        (converted,) = convert_to_openai_messages([message])
    except ValueError as error:
        raise ConfigError(
            f"A {type(message).__name__} cannot be part of a prompt: give system, human, ai and tool messages."
        ) from error
    return dict(converted)
