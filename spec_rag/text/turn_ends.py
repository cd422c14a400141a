"""The tokens with which a chat template closes the assistant's turn. This module does not know models."""

from __future__ import annotations

import re
from typing import Any

from transformers import PreTrainedTokenizerBase

from spec_rag.text.tokenization import control_tokens
from spec_rag.utils.object_state import state_of

_ANSWER = "Zq0answer0qZ"
_USER: dict[str, Any] = {"role": "user", "content": "Zq0question0qZ"}
_ASSISTANT: dict[str, Any] = {"role": "assistant", "content": _ANSWER}
_TAG = re.compile(r"\s*(<[^<>\s]+>)")


class _TurnEnds(dict[str, list[int]]):
    """Turn end ids of one tokenizer, by its chat template."""


def turn_end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the control token that stands behind an answer in the tokenizer's chat template; empty if there is none.

    A template that closes no turn, and opens the next with a control token, ends the answer with that one.
    """
    template = repr(tokenizer.chat_template)
    turn_ends = state_of(tokenizer, _TurnEnds)
    if template not in turn_ends:
        turn_ends[template] = _turn_end_ids(tokenizer) if tokenizer.chat_template else []
    return turn_ends[template]


def _turn_end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # some templates close the last turn of a chat with another token than those before it: the last one counts
    for turns in ([_USER, _ASSISTANT], [_USER, _ASSISTANT, _USER]):
        try:
            text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False))
        except Exception:  # the template is any program; what it refuses here closes nothing
            continue
        token = _first_token(tokenizer, text.rpartition(_ANSWER)[2]) if _ANSWER in text else None
        if token is not None:
            return [token]
    return []


def _first_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The id of the control token that the text begins with, white space aside."""
    start = text.lstrip()
    names = [name for name in control_tokens(tokenizer) if start.startswith(name.lstrip())]
    found = _TAG.match(text)
    names = names or ([found.group(1)] if found else [])
    known = tokenizer.convert_tokens_to_ids(max(names, key=len)) if names else None
    return known if isinstance(known, int) and known != tokenizer.unk_token_id else None
