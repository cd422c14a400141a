"""Escaping of control tokens spelled out in user strings, so that they stay text after a template is applied.

The template is applied to marked strings; its output is then split into template text and plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from spec_rag.text.tokenization import control_tokens, template_ids, text_ids

# Unicode noncharacters, which do not occur in text
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARKS = str.maketrans({_OPEN: "\ufffd", _CLOSE: "\ufffd"})


def marked(tokenizer: PreTrainedTokenizerBase, value: Any) -> Any:
    """Copy a value with marks around each control token in its strings."""
    return _marked(value, _spelled(tokenizer))


def pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[str, bool]]:
    """Split a template's output into (piece, is_text): control tokens are not recognised in pieces that are text."""
    spelled = _spelled(tokenizer)
    if spelled is None:
        return [(text, False)]
    parts = re.split(f"{_OPEN}({spelled.pattern}){_CLOSE}", text)
    bare = [part.replace(_OPEN, "").replace(_CLOSE, "") for part in parts]
    return [(part, i % 2 == 1) for i, part in enumerate(bare) if part]


def pieces_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Token ids of a template's output with marks.

    Args:
        tokenizer: any tokenizer of transformers.
        text: the output.
        add_special_tokens: add the tokenizer's special tokens, such as BOS.
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
