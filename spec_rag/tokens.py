"""From prompts to token ids: text, chat messages or ids. Special tokens inside contents stay text.

This module does not know documents; `prompt` lays those out.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spec_rag.errors import ConfigError

Messages: TypeAlias = Sequence[Mapping[str, Any]]
Prompt: TypeAlias = str | Messages | Sequence[int] | Tensor

_SENTINEL = "\ue000{}\ue001"


# a fast tokenizer keeps its settings, such as split_special_tokens, in itself: two threads must not set them at once
_encoding = threading.Lock()


def encode(tokenizer: PreTrainedTokenizerBase, text: str, **settings: Any) -> Any:
    """The tokenizer's own call, safe when several threads share it."""
    with _encoding:
        return tokenizer(text, **settings)


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a piece of text: nothing added, and special tokens spelled out in it stay text."""
    return list(encode(tokenizer, text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def prompt_ids(tokenizer: PreTrainedTokenizerBase | None, prompt: Prompt) -> Tensor:
    """int64 [tokens] of a prompt.

    Args:
        tokenizer: the target's; may be None for token ids.
        prompt: plain text (the tokenizer's own opening token is added), chat messages with "role" and "content" (the
            chat template is applied), or token ids.

    Raises:
        ConfigError: the prompt is empty or of another kind, or there is no tokenizer or chat template for it.
    """
    if isinstance(prompt, Tensor):
        if prompt.numel() == 0 or prompt.ndim > 2 or (prompt.ndim == 2 and prompt.shape[0] != 1):
            raise ConfigError(f"prompt of shape {tuple(prompt.shape)}: give ids [tokens] or [1, tokens], at least one.")
        return prompt.reshape(-1).long()
    if not prompt:
        raise ConfigError(f"prompt={prompt!r} is empty: give some text, messages or token ids.")
    if not isinstance(prompt, str) and all(isinstance(i, int) for i in prompt):
        return torch.tensor(prompt, dtype=torch.long)
    if tokenizer is None:
        raise ConfigError("tokenizer=None serves for token ids alone: give the pair a tokenizer to work on text.")
    if isinstance(prompt, str):
        ids = list(encode(tokenizer, prompt, split_special_tokens=True)["input_ids"])
        if not ids:
            raise ConfigError(f"prompt={prompt!r} has no tokens: give some text.")
        return torch.tensor(ids, dtype=torch.long)
    if all(isinstance(message, Mapping) and "role" in message for message in prompt):
        return torch.tensor(chat_ids(tokenizer, prompt), dtype=torch.long)  # type: ignore[arg-type]
    raise ConfigError(f"prompt of type {type(prompt).__name__}: give text, messages with 'role' and 'content', or ids.")


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages, **template_arguments: Any) -> list[int]:
    """Token ids of a chat with the opening of the assistant's turn.

    The template is tokenized once, with its special tokens; where a content spells out a special token, that content
    is tokenized by itself, as text.
    """
    if not tokenizer.chat_template:
        raise ConfigError("messages need a chat template, which this tokenizer has not: give the prompt as text.")
    own = [dict(message) for message in messages]
    spelled = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()} - {""}
    arguments: dict[str, Any] = {"add_generation_prompt": True, **template_arguments}
    risky = [m for m in own if isinstance(m.get("content"), str) and any(t in m["content"] for t in spelled)]
    if not risky:
        with _encoding:
            encoded = tokenizer.apply_chat_template(own, tokenize=True, return_dict=True, **arguments)
        return list(encoded["input_ids"])
    contents = []
    for message in risky:
        contents.append(message["content"])
        message["content"] = _SENTINEL.format(len(contents) - 1)
    rest = str(tokenizer.apply_chat_template(own, tokenize=False, **arguments))
    ids: list[int] = []
    for index, content in enumerate(contents):
        before, _, rest = rest.partition(_SENTINEL.format(index))
        ids += encode(tokenizer, before, add_special_tokens=False)["input_ids"]
        ids += text_ids(tokenizer, content)
    return ids + list(encode(tokenizer, rest, add_special_tokens=False)["input_ids"])


def left_pad(rows: Sequence[Tensor], fill: int) -> tuple[Tensor, Tensor]:
    """Stack int64 [tokens] rows into a left-padded [batch, tokens], with its mask (1 where there is a token)."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = row
        mask[i, width - len(row) :] = 1
    return ids, mask
