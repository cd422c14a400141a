"""From LlamaIndex's chat messages to the role and content pairs of a chat template."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
    MessageRole.TOOL: "tool",
}
_MEDIA = ("image", "audio", "video", "document")


def template_messages(messages: Sequence[ChatMessage], chat_template: str) -> list[dict[str, str]]:
    """Role and content pairs; consecutive turns of one role become one turn, which many templates insist on.

    A tool's message is a user's turn where the template does not speak of tools.

    Raises:
        ValueError: there are no messages, or one carries an image, audio, video or document.
    """
    if not messages:
        raise ValueError("messages=[]: give at least one message.")
    turns: list[dict[str, str]] = []
    for message in messages:
        role = _ROLES[message.role]
        if role == "tool" and "tool" not in chat_template:
            role = "user"
        content = text_of(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append({"role": role, "content": content})
    return turns


def text_of(message: ChatMessage) -> str:
    """The message's text.

    Raises:
        ValueError: it carries something that a text model cannot read.
    """
    for block in message.blocks:
        if getattr(block, "block_type", "") in _MEDIA:
            raise ValueError(
                f"A {message.role.value} message carries an {block.block_type} block: SpecKVLLM reads text."
            )
    return "\n".join(block.text for block in message.blocks if isinstance(block, TextBlock))
