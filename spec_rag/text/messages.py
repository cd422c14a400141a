"""Texts of messages and questions of any framework.

Messages are OpenAI dicts, LangChain messages, LlamaIndex ChatMessages or (role, text) pairs. They are recognised by
their attributes, so neither framework is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spec_rag.errors import ConfigError
from spec_rag.utils.validation import check_depth

_MEDIA = ("image", "audio", "video", "file", "document", "media")
# reasoning and calls (which are in "tool_calls") are not text of the message
_NO_TEXT = ("thinking", "reasoning", "redacted_thinking", "tool_use", "tool_call", "function_call", "server_tool")
_ASKING = ("user", "human")
_ANSWERING = ("assistant", "ai", "chatbot", "model")


def content_text(content: Any, role: str, *, skip_media: bool = False) -> str:
    """The text of a message's content; parts are joined by line breaks.

    Args:
        content: a string, a list of text parts (OpenAI's dicts, LlamaIndex blocks, or strings), one such part, or None.
        role: role of the message, for errors.
        skip_media: ignore images, audio, video and files instead of refusing them.

    Raises:
        ConfigError: it contains media, is nested too deeply, or has the wrong type.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if _is_part(content):
        content = [content]
    if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
        raise ConfigError(f"content of a {role} message of type {type(content).__name__}: give a string.")
    check_depth(f"content of a {role} message", content)
    texts = [_part_text(part, role, skip_media) for part in content]
    return "\n".join(text for text in texts if text is not None)


def _part_text(part: Any, role: str, skip_media: bool) -> str | None:
    """The text of one part, or None if it has no text."""
    if isinstance(part, str):
        return part
    kind = _kind(part, role)
    if kind.startswith(_NO_TEXT):
        return None
    if any(kind.startswith(media) or kind.endswith(media) for media in _MEDIA):
        if skip_media:
            return None
        raise ConfigError(f"A {role} message contains a block of type {kind!r}: this model reads only text.")
    if kind == "tool_result" and isinstance(part, Mapping):
        return content_text(part.get("content"), role, skip_media=skip_media)
    text = part.get("text", part.get(kind)) if isinstance(part, Mapping) else getattr(part, "text", None)
    if not isinstance(text, str):
        raise ConfigError(f"A {role} message contains a block of type {kind!r} without text: give text blocks.")
    return text


def turns_of(query: Any) -> list[tuple[str, str]] | None:
    """A question as ("user" or "assistant", text) turns. Other roles and turns without text are left out.

    Args:
        query: a string, a message, a list of messages, the parts of one message's content, a LangChain PromptValue, or
            a LlamaIndex QueryBundle. Media is ignored.

    Returns:
        None if the type is not supported.
    """
    if hasattr(query, "to_messages"):
        query = query.to_messages()
    elif hasattr(query, "query_str"):
        query = query.query_str
    if isinstance(query, str) or _is_part(query):
        return _spoken([("user", query)])
    if isinstance(query, Mapping) and "content" not in query:
        return None
    if _as_message(query) is not None:
        query = [query]
    if not isinstance(query, Sequence) or isinstance(query, bytes | bytearray):
        return None
    if query and all(isinstance(one, str) or _is_part(one) for one in query):
        only_strings = all(isinstance(one, str) for one in query)  # a list of documents, more likely than a question
        return None if only_strings else _spoken([("user", query)])
    messages = [("user", one) if isinstance(one, str) else _as_message(one) for one in query]
    known = [message for message in messages if message is not None]
    return _spoken(known) if len(known) == len(messages) else None


def question_of(query: Any, last_turns: int = 3) -> str | None:
    """The text of a question's last turns, which may be blank; None if `turns_of` returns None."""
    turns = turns_of(query)
    return None if turns is None else "\n".join(text for _, text in turns[-last_turns:]).strip()


def _spoken(messages: Sequence[tuple[str, Any]]) -> list[tuple[str, str]]:
    turns = []
    for role, content in messages:
        if role in _ASKING or role in _ANSWERING:
            text = content_text(content, role, skip_media=True)
            turns += [("user" if role in _ASKING else "assistant", text)] if text else []
    return turns


def _as_message(one: Any) -> tuple[str, Any] | None:
    """Role and content of a message, or None if it is not a message."""
    if isinstance(one, Mapping):
        role = one.get("role", one.get("type") if "content" in one else None)
        return None if role is None else (str(role), one.get("content"))
    if isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and not _is_part(one[1]):
        return one[0], one[1]
    if hasattr(one, "blocks") and hasattr(one, "role"):  # LlamaIndex
        return str(getattr(one.role, "value", one.role)), one.blocks
    if hasattr(one, "content") and hasattr(one, "type"):  # LangChain
        return str(getattr(one, "role", one.type)), one.content
    return None


def _is_part(one: Any) -> bool:
    """Whether it is a content part: it has a type, but no role and no content."""
    if isinstance(one, Mapping):
        return isinstance(one.get("type"), str) and "content" not in one and "role" not in one
    return isinstance(getattr(one, "block_type", None), str)


def _kind(part: Any, role: str) -> str:
    if isinstance(part, Mapping):
        return str(part.get("type", "text"))
    kind = getattr(part, "block_type", None)
    if kind is None:
        raise ConfigError(
            f"content of a {role} message has a part of type {type(part).__name__}: give strings and dicts with 'type'."
        )
    return str(kind)
