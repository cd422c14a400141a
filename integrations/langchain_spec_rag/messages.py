"""From LangChain's messages to those of OpenAI's API, which the core reads, and from the core's answers back."""

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
        ConfigError: (a ValueError) there are none, or one has no place in a prompt.
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
    """The calls as LangChain has them, and those that cannot be read."""
    calls = [ToolCall(name=call.name, args=call.arguments, id=call.id, type="tool_call") for call in read.calls]
    invalid = [
        InvalidToolCall(type="invalid_tool_call", name=one.name, args=one.text, id=one.id, error=one.error)
        for one in read.unreadable
    ]
    return calls, invalid


def tool_call_chunks(read: ReadCalls) -> list[ToolCallChunk]:
    """The same calls for the last chunk of a stream."""
    written = [(call.name, call.arguments_json, call.id) for call in read.calls]
    written += [("", one.text, one.id) for one in read.unreadable]
    return [
        ToolCallChunk(name=name, args=args, id=id, index=index, type="tool_call_chunk")
        for index, (name, args, id) in enumerate(written)
    ]


def _plain(message: Any) -> dict[str, Any]:
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": message.content}
    if isinstance(message, BaseMessage):
        text_of(message)  # which says what a text model cannot read
        check_depth(f"a {type(message).__name__}", [message.content, getattr(message, "tool_calls", None)])
    try:
        (found,) = convert_to_openai_messages([message])
    except ValueError as error:
        raise ConfigError(
            f"A {type(message).__name__} has no place in a prompt: give system, human, ai and tool messages."
        ) from error
    return dict(found)
