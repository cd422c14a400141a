"""Marks around the control tokens that somebody else's strings spell out, so that a template may carry them along.

A template, of the tokenizer or of an application, is applied to marked strings; its text is then taken apart into what
is the template's and what is text alone. This module does not know chats or models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from spec_rag.text.tokenization import control_tokens, template_ids, text_ids

# noncharacters, which no text has a use for
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARKS = str.maketrans({_OPEN: "\ufffd", _CLOSE: "\ufffd"})


def marked(tokenizer: PreTrainedTokenizerBase, value: Any) -> Any:
    """The value with each control token that one of its strings spells out put between marks; nothing is mutated."""
    return _marked(value, _spelled(tokenizer))


def pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[str, bool]]:
    """A template's text over marked strings in pieces, each with whether it is text in which nothing is alive."""
    spelled = _spelled(tokenizer)
    if spelled is None:
        return [(text, False)]
    parts = re.split(f"{_OPEN}({spelled.pattern}){_CLOSE}", text)
    bare = [part.replace(_OPEN, "").replace(_CLOSE, "") for part in parts]
    return [(part, i % 2 == 1) for i, part in enumerate(bare) if part]


def pieces_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Token ids of a template's text over marked strings.

    Args:
        tokenizer: any tokenizer of transformers.
        text: the text.
        add_special_tokens: put the tokenizer's own tokens around it, such as an opening one.
    """
    ids: list[int] = []
    for i, (piece, is_text) in enumerate(pieces(tokenizer, text)):
        opens = add_special_tokens and i == 0
        ids += (text_ids if is_text else template_ids)(tokenizer, piece, add_special_tokens=opens)
    return ids


def _spelled(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    control = sorted(control_tokens(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, control))) if control else None


def _marked(value: Any, spelled: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        text = value.translate(_MARKS)
        return text if spelled is None else spelled.sub(lambda found: f"{_OPEN}{found.group()}{_CLOSE}", text)
    if isinstance(value, Mapping):
        return {name: _marked(entry, spelled) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(entry, spelled) for entry in value]
    return value
