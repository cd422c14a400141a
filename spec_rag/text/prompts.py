"""Prompts of every kind into token ids: plain text, chats with tools, or ids.

Chats are lists of messages as OpenAI's API has them. A template that knows less (no system role, no tools, no two turns
of one role in a row) gets the same text in turns that it knows; no message's text is dropped. This module does not know
documents or models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spec_rag.errors import ConfigError
from spec_rag.text.chat_format import (
    Turns,
    arrangements,
    in_parts,
    joined_turns,
    with_calls_apart,
    without_system_turn,
)
from spec_rag.text.marks import marked, pieces
from spec_rag.text.messages import content_text
from spec_rag.text.tokenization import template_ids, text_ids
from spec_rag.utils.validation import check_depth

Messages: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Chat:
    """A chat with what belongs to its prompt beside the messages.

    Attributes:
        messages: as OpenAI's API has them: "role", "content" (a string or text blocks), and for tools "tool_calls",
            "tool_call_id", "name".
        tools: what the model may call, as OpenAI's API has them.
        assistant_prefix: first characters of the answer.
    """

    messages: Messages
    tools: Sequence[Mapping[str, Any]] = ()
    assistant_prefix: str = ""


Prompt: TypeAlias = str | Messages | Chat | Sequence[int] | Tensor

__all__ = [
    "Chat",
    "Messages",
    "Prompt",
    "as_chat",
    "chat_ids",
    "chat_pieces",
    "chat_text",
    "content_text",
    "prompt_ids",
    "speaks_of_tools",
    "template_text",
    "template_turns",
    "without_system_turn",
]

_ROLES = {
    "human": "user",
    "ai": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "developer": "system",
    "function": "tool",
}
# a template is a program: these are what it raises on turns that it was not written for
_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
_PROBE = "zq0{}0qz"
_TOOL_PROBE = {"type": "function", "function": {"name": "probe", "description": "", "parameters": {}}}


def prompt_ids(tokenizer: PreTrainedTokenizerBase | None, prompt: Prompt) -> Tensor:
    """int64 [tokens] of a prompt.

    Args:
        tokenizer: the target's; may be None for token ids.
        prompt: plain text (the tokenizer's own opening token is added), chat messages with "role" and "content" or a
            Chat (the chat template is applied), or token ids.

    Raises:
        ConfigError: the prompt is empty or of another kind, or there is no tokenizer or chat template for it.
    """
    if isinstance(prompt, Tensor):
        if prompt.numel() == 0 or prompt.ndim > 2 or (prompt.ndim == 2 and prompt.shape[0] != 1):
            raise ConfigError(f"prompt of shape {tuple(prompt.shape)}: give ids [tokens] or [1, tokens], at least one.")
        return prompt.reshape(-1).long()
    if isinstance(prompt, Chat):
        if tokenizer is None:
            raise ConfigError("tokenizer=None serves for token ids alone: give the pair a tokenizer to work on text.")
        return torch.tensor(
            chat_ids(tokenizer, prompt.messages, prompt.tools, prompt.assistant_prefix), dtype=torch.long
        )
    if not isinstance(prompt, str | Sequence):
        raise ConfigError(f"prompt={prompt!r:.80} of type {type(prompt).__name__}: give text, messages or token ids.")
    if not prompt:
        raise ConfigError(f"prompt={prompt!r} is empty: give some text, messages or token ids.")
    if not isinstance(prompt, str) and all(isinstance(i, int) for i in prompt):
        return torch.tensor(prompt, dtype=torch.long)
    if tokenizer is None:
        raise ConfigError("tokenizer=None serves for token ids alone: give the pair a tokenizer to work on text.")
    if isinstance(prompt, str):
        ids = text_ids(tokenizer, prompt, add_special_tokens=True)
        if not ids:
            raise ConfigError(f"prompt={prompt!r} has no tokens: give some text.")
        return torch.tensor(ids, dtype=torch.long)
    if all(isinstance(message, Mapping) and "role" in message for message in prompt):
        return torch.tensor(chat_ids(tokenizer, prompt), dtype=torch.long)  # type: ignore[arg-type]
    raise ConfigError(f"prompt of type {type(prompt).__name__}: give text, messages with 'role' and 'content', or ids.")


def as_chat(prompt: Prompt) -> Chat | None:
    """The prompt as a Chat, or None where it is text or token ids."""
    if isinstance(prompt, Chat):
        return prompt
    if isinstance(prompt, str | Tensor) or not isinstance(prompt, Sequence) or not prompt:
        return None
    turns = [turn for turn in prompt if isinstance(turn, Mapping) and "role" in turn]
    return Chat(turns) if len(turns) == len(prompt) else None


def chat_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    tools: Sequence[Mapping[str, Any]] = (),
    assistant_prefix: str = "",
) -> list[int]:
    """Token ids of a chat with the opening of the assistant's turn.

    The template's own control tokens are recognised; what a message spells out, in its content, its names or its tool
    calls, is read as text.

    Args:
        tokenizer: its chat template is applied.
        messages: as OpenAI's API has them: "role", "content" (a string or text blocks), and for tools "tool_calls",
            "tool_call_id", "name".
        tools: what the model may call, as OpenAI's API has them.
        assistant_prefix: first characters of the answer.

    Raises:
        ConfigError: the tokenizer has no chat template, there are no messages, one cannot be read by a text model, or
            the template refuses them or drops the text of one in every arrangement.
    """
    ids: list[int] = []
    for piece, is_text in chat_pieces(tokenizer, messages, tools)[1]:
        ids += (text_ids if is_text else template_ids)(tokenizer, piece)
    return ids + (text_ids(tokenizer, assistant_prefix) if assistant_prefix else [])


def chat_pieces(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    opens_answer: bool = True,
) -> tuple[list[dict[str, Any]], list[tuple[str, bool]]]:
    """The turns of a chat, and its text in the template, in pieces that are the template's or are text alone.

    Where the template refuses the chat, or drops the text of a turn, the chat is arranged in other turns: a system text
    becomes the beginning of the user turn behind it, an assistant that speaks first answers an empty user turn, tool
    results are given by the user.

    Args:
        tokenizer, messages, tools: as for `chat_ids`.
        opens_answer: end with the opening of the assistant's turn.

    Raises:
        ConfigError: as `chat_ids`.
    """
    if not tokenizer.chat_template:
        raise ConfigError("messages need a chat template, which this tokenizer has not: give the prompt as text.")
    check_depth("messages", messages)
    check_depth("tools", tools)
    arguments = {"tools": list(tools)} if tools else {}
    refused: Exception | None = None
    dropped: str | None = None
    for turns, arranged in _arranged(messages, speaks_of_tools(tokenizer)):
        try:
            found = _templated(tokenizer, arranged, arguments, opens_answer)
            lost = _dropped_turn(tokenizer, arranged, arguments)
        except _REFUSALS as error:
            refused = refused or error
            continue
        if lost is None:
            return turns, found
        dropped = dropped or lost
    if dropped is not None:
        raise ConfigError(
            f"messages: the chat template drops the text of the {dropped} message. Give its text in a message of "
            "role 'user', or take a tokenizer whose chat template has that role."
        )
    raise ConfigError(
        f"messages: the chat template refuses the roles {[str(message['role']) for message in messages]}: {refused}. "
        "Begin with a user message, behind a system message where there is one, and let user and assistant alternate."
    ) from refused


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, opens_answer: bool = True) -> str:
    """A chat as the template writes it; no message's text is dropped.

    Raises:
        ConfigError: as `chat_ids`.
    """
    return "".join(piece for piece, _ in chat_pieces(tokenizer, messages, opens_answer=opens_answer)[1])


def speaks_of_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes down the tools that it is given."""
    if "tool" not in template_text(tokenizer):
        return False
    turn = [{"role": "user", "content": "Hi"}]
    try:
        without, with_tools = (
            tokenizer.apply_chat_template(turn, tokenize=False, tools=tools) for tools in (None, [_TOOL_PROBE])
        )
    except _REFUSALS:
        return False
    return bool(without != with_tools)


def template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template's source, of all of them where there are several; "" where there is none."""
    template = tokenizer.chat_template
    return json.dumps(template) if isinstance(template, dict) else str(template or "")


def template_turns(messages: Messages, *, speaks_of_tools: bool) -> list[dict[str, Any]]:
    """Turns with "role" and "content"; neighbours of one role become one turn, which many templates insist on.

    Args:
        messages: the chat.
        speaks_of_tools: whether the template knows tool calls and results. Where it does not, a tool's result is told
            by the user, and a turn that only called tools is left out.

    Raises:
        ConfigError: there are no messages, or one of them is of a kind that a text model cannot read.
    """
    if not messages:
        raise ConfigError("messages=[]: give at least one message.")
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    names = [_called_function(call)["name"] for call in calls]
    called = {call.get("id"): name for call, name in zip(calls, names, strict=True)}
    turns = [_turn(message, called, speaks_of_tools) for message in messages]
    return joined_turns([turn for turn in turns if turn is not None])


def _arranged(messages: Messages, knows_tools: bool) -> Iterator[tuple[Turns, Turns]]:
    """Pairs of a chat's turns and of the same turns as a template may know them, the plainest first."""
    plain = template_turns(messages, speaks_of_tools=knows_tools)
    forms = [plain]
    if knows_tools and any(turn["role"] == "tool" or "tool_calls" in turn for turn in plain):
        forms += [with_calls_apart(plain), template_turns(messages, speaks_of_tools=False)]
    for turns in forms:
        for arranged in arrangements(turns):
            yield turns, arranged
    for arranged in arrangements(plain):
        yield plain, in_parts(arranged)


def _dropped_turn(tokenizer: PreTrainedTokenizerBase, turns: Turns, arguments: Mapping[str, Any]) -> str | None:
    """The role of the first turn whose text or tool call the template leaves out; None where all arrive.

    Looked for by probes in place of the texts, since templates strip and escape what they are given.
    """
    text = str(
        tokenizer.apply_chat_template(
            [_probe(turn, i) for i, turn in enumerate(turns)], tokenize=False, add_generation_prompt=True, **arguments
        )
    ).lower()
    for i, turn in enumerate(turns):
        has_text = bool(turn["content"].strip()) if isinstance(turn["content"], str) else True
        calls = [_PROBE.format(f"{i}c{j}") for j in range(len(turn.get("tool_calls", ())))]
        probes = ([_PROBE.format(i)] if has_text else []) + calls
        if any(probe not in text for probe in probes):
            return str(turn["role"])
    return None


def _probe(turn: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The turn with a word of its own in place of its text and of the names in its tool calls."""
    content: Any = turn["content"]
    if not isinstance(content, str):
        content = [{"type": "text", "text": _PROBE.format(index)}]
    elif content.strip():
        content = _PROBE.format(index)
    calls = [
        {**call, "function": {**call["function"], "name": _PROBE.format(f"{index}c{j}")}}
        for j, call in enumerate(turn.get("tool_calls", ()))
    ]
    return {**turn, "content": content, **({"tool_calls": calls} if calls else {})}


def _turn(message: Mapping[str, Any], called: Mapping[Any, str], speaks_of_tools: bool) -> dict[str, Any] | None:
    role = str(message["role"])
    role = _ROLES.get(role, role)
    content = content_text(message.get("content"), role)
    if role == "tool":
        name = message.get("name") or called.get(message.get("tool_call_id")) or "tool"
        if not speaks_of_tools:
            return {"role": "user", "content": f"Result of {name}:\n{content}"}
        identity = {"tool_call_id": message["tool_call_id"]} if message.get("tool_call_id") else {}
        return {"role": "tool", "name": name, "content": content, **identity}
    calls = [_plain_call(call) for call in message.get("tool_calls") or ()]
    if not calls:
        return {"role": role, "content": content}
    if not speaks_of_tools:
        return {"role": role, "content": content} if content else None
    return {"role": role, "content": content, "tool_calls": calls}


def _called_function(call: Any) -> Mapping[str, Any]:
    """The function of a tool call, with its name."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConfigError(f"tool_calls={call!r:.80}: give calls as {{'id': ..., 'function': {{'name': ..., ...}}}}.")
    return function


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """The call with its arguments as an object, which is what templates write down."""
    function = _called_function(call)
    arguments = function.get("arguments", {})
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}  # a call without arguments
    elif isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"tool_calls: the arguments of {function.get('name')!r} are no JSON: {arguments!r:.80}."
            ) from error
    check_depth(f"tool_calls: the arguments of {function.get('name')!r}", arguments)
    return {"type": "function", "id": call.get("id"), "function": {"name": function["name"], "arguments": arguments}}


def _templated(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
    opens_answer: bool,
) -> list[tuple[str, bool]]:
    """The chat's text in pieces, each with whether it is text in which control tokens are spelled out."""
    # tools are the application's own words, but may quote others'
    turns, settings = marked(tokenizer, turns), marked(tokenizer, arguments)
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opens_answer, **settings))
    return pieces(tokenizer, text)
