"""Conversion between LlamaIndex's messages and those of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock

from spec_rag.errors import ConfigError
from spec_rag.generation.tool_calls import ReadCalls
from spec_rag.utils.validation import check_depth

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
}
_MEDIA = ("image", "audio", "video", "document")


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages as dicts of OpenAI's API.

    Raises:
        ConfigError: (a ValueError) there are no messages, or one has an image, audio, video or document.
    """
    if not messages:
        raise ConfigError("messages=[]: give at least one message.")
    for message in messages:
        check_depth(f"a {message.role.value} message", message.additional_kwargs)
    return [_plain(message) for message in messages]


def text_of(message: ChatMessage) -> str:
    """The message's text.

    Raises:
        ConfigError: (a ValueError) it has media.
    """
    for block in message.blocks:
        if getattr(block, "block_type", "") in _MEDIA:
            raise ConfigError(
                f"A {message.role.value} message has an {block.block_type} block: SpecKVLLM reads text only."
            )
    return "\n".join(block.text for block in message.blocks if isinstance(block, TextBlock))


def marked_messages(tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Copies of the messages with marks around control tokens in their texts."""
    from spec_rag.text.marks import marked

    copies = []
    for message in messages:
        copy = message.model_copy(deep=True)
        for block in copy.blocks:
            if isinstance(block, TextBlock):
                block.text = marked(tokenizer, block.text)
        copy.additional_kwargs = marked(tokenizer, copy.additional_kwargs)
        copies.append(copy)
    return copies


def assistant_message(read: ReadCalls) -> ChatMessage:
    """An assistant message with its tool calls in `additional_kwargs`, as in LlamaIndex's LLMs."""
    calls = {"tool_calls": [call.to_dict() for call in read.calls]} if read.calls else {}
    return ChatMessage(role=MessageRole.ASSISTANT, content=read.whole_text, additional_kwargs=calls)


def _plain(message: ChatMessage) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": _ROLES.get(message.role, message.role.value), "content": text_of(message)}
    calls = [dict(call) for call in message.additional_kwargs.get("tool_calls") or ()]
    blocks: list[Any] = list(message.blocks)
    for block in blocks:
        if getattr(block, "block_type", "") == "tool_call":
            function = {"name": block.tool_name, "arguments": block.tool_kwargs}
            calls.append({"id": block.tool_call_id, "type": "function", "function": function})
    if calls:
        plain["tool_calls"] = calls
    for name in ("tool_call_id", "name"):
        if message.additional_kwargs.get(name):
            plain[name] = message.additional_kwargs[name]
    return plain
