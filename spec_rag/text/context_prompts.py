"""Prompts split in two: a context at the start of the user's turn, and questions that may follow it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spec_rag.errors import ConfigError
from spec_rag.text.messages import content_text
from spec_rag.text.prompts import Chat, Prompt, as_chat, chat_ids, prompt_ids
from spec_rag.text.tokenization import text_ids
from spec_rag.text.units import unit_spans

_BETWEEN = "\n\n"
_REPEAT = "Repeat the text."


def context_ids(
    tokenizer: PreTrainedTokenizerBase | None, context: str | Sequence[int] | Tensor, system: str | None = None
) -> Tensor:
    """int64 [tokens] of a context with the start of its turn, so that any question may follow.

    Args:
        tokenizer: the target's; may be None for token ids.
        context: text, or token ids, which are used unchanged.
        system: text of a system turn.

    Raises:
        ConfigError: the context is empty, or `system` is given without a text context and a chat template.
    """
    if system is not None and (tokenizer is None or not tokenizer.chat_template or not isinstance(context, str)):
        raise ConfigError(f"system={system!r:.80} needs a context that is text, and a tokenizer with a chat template.")
    if not isinstance(context, str):
        return prompt_ids(None, context)
    if not context.strip():
        raise ConfigError(f"context={context!r:.80} is empty: give some text.")
    if tokenizer is None:
        raise ConfigError("tokenizer=None serves for token ids alone: give the pair a tokenizer to work on text.")
    if not tokenizer.chat_template:
        return torch.tensor(text_ids(tokenizer, context + _BETWEEN, add_special_tokens=True), dtype=torch.long)
    before = [] if system is None else [{"role": "system", "content": system}]
    ids = chat_ids(tokenizer, [*before, {"role": "user", "content": context}])
    closing = _shared_end(*(chat_ids(tokenizer, [*before, {"role": "user", "content": word}]) for word in "ab"))
    return torch.tensor([*ids[: len(ids) - closing], *text_ids(tokenizer, _BETWEEN)], dtype=torch.long)


def question_ids(tokenizer: PreTrainedTokenizerBase | None, prompt: Prompt) -> Tensor:
    """int64 [tokens] after a context: the rest of the user's turn, further turns, and the start of the answer.

    Args:
        tokenizer: the target's; may be None for token ids.
        prompt: a question as text, messages of which the first is the user's, or token ids, used unchanged.

    Raises:
        ConfigError: the prompt is empty or has the wrong type, or its first message is not the user's.
    """
    chat = as_chat(prompt)
    if isinstance(prompt, Tensor) or tokenizer is None or not prompt or (chat is None and not isinstance(prompt, str)):
        return prompt_ids(tokenizer, prompt)
    if isinstance(prompt, str):
        if not tokenizer.chat_template:
            return torch.tensor(text_ids(tokenizer, prompt), dtype=torch.long)
        chat = Chat([{"role": "user", "content": prompt}])
    assert chat is not None
    if chat.tools:
        raise ConfigError("tools: the context was read without tools, so a question on it cannot offer any.")
    turns = list(chat.messages)
    if turns[0]["role"] not in ("user", "human"):
        raise ConfigError(
            f"prompt: its first message is the {turns[0]['role']}'s, but a context opens the user's turn. Begin with "
            "the question, and give system= where the context is read."
        )
    opening = _shared_start(*(chat_ids(tokenizer, [{"role": "user", "content": w}, *turns[1:]]) for w in "ab"))
    asked = {"role": "user", "content": content_text(turns[0].get("content"), "user")}
    ids = chat_ids(tokenizer, [asked, *turns[1:]], assistant_prefix=chat.assistant_prefix)
    return torch.tensor(ids[opening:], dtype=torch.long)


def repetition_ids(
    tokenizer: PreTrainedTokenizerBase | None, context: str | Sequence[int] | Tensor
) -> tuple[list[int], Tensor]:
    """Token ids that ask for a repetition of the context, and the repetition.

    The sentences of a text are repeated in shuffled order, so that each attends to its content and not to what
    preceded it. The order depends only on their number.

    Args:
        tokenizer: the target's; may be None for token ids.
        context: text, or token ids, which are repeated unchanged.

    Returns:
        The ids that ask for a repetition, up to the opening of the answer, and int64 [tokens], the repetition.
    """
    if tokenizer is None:
        return [], prompt_ids(None, context)
    asked = question_ids(tokenizer, _REPEAT).tolist()
    if not isinstance(context, str):
        return asked, prompt_ids(None, context)
    sentences = [context[start:end] for start, end in unit_spans(context, "sentence")]
    random.Random(0).shuffle(sentences)
    return asked, torch.tensor(text_ids(tokenizer, " ".join(sentences)), dtype=torch.long)


def _shared_start(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _shared_end(one: Sequence[int], other: Sequence[int]) -> int:
    return _shared_start(one[::-1], other[::-1])
