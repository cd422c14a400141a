"""Text into token ids. Control tokens come from templates alone: spelled out in a text, they stay text.

A fast tokenizer keeps whether control tokens are recognised as a switch in itself, which threads would have to share.
So each tokenizer is encoded with through two private copies of its backend, one that knows control tokens and one that
does not, and nothing is ever switched. This module does not know prompts, documents or models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spec_rag.errors import ConfigError
from spec_rag.utils.forking import new_lock
from spec_rag.utils.object_state import state_of

_SURROGATE = re.compile("[\ud800-\udfff]")
MARKUP = re.compile(r"\s*[<\[{|].*[>\]}|]\s*", re.DOTALL)


@dataclass(frozen=True)
class EncodedText:
    """Token ids of a text and, per token, its character range."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@dataclass(frozen=True)
class _Backends:
    """A tokenizer's backend, copied twice."""

    vocabulary: int
    text: Tokenizer
    template: Tokenizer
    control_tokens: frozenset[str]


class _OwnBackends:
    """The copies that belong to one tokenizer."""

    backends: _Backends | None = None


_copy_lock = new_lock()


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Token ids of a text in which control tokens stay text.

    Args:
        tokenizer: any tokenizer of transformers.
        text: any text; a lone surrogate is read as U+FFFD.
        add_special_tokens: put the tokenizer's own tokens around it, such as an opening one.
    """
    own = _copies(tokenizer)
    if own is None:
        slow = tokenizer(encodable(text), add_special_tokens=add_special_tokens, split_special_tokens=True)
        return list(slow["input_ids"])
    return list(own.text.encode(encodable(text), add_special_tokens=add_special_tokens).ids)


def encoded_text(tokenizer: PreTrainedTokenizerBase, text: str, *, is_text: bool = True) -> EncodedText:
    """`text_ids`, or where it is no text `template_ids`, with each token's character range.

    Raises:
        ConfigError: the tokenizer has no fast backend, so it knows no offsets.
    """
    own = _copies(tokenizer)
    if own is None:
        raise ConfigError(
            f"tokenizer of type {type(tokenizer).__name__} gives no character offsets: load a fast tokenizer."
        )
    encoded = (own.text if is_text else own.template).encode(encodable(text), add_special_tokens=False)
    return EncodedText(list(encoded.ids), list(encoded.offsets))


def template_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Token ids of a template's text, whose control tokens are meant as such."""
    own = _copies(tokenizer)
    if own is None:
        return list(tokenizer(encodable(text), add_special_tokens=add_special_tokens)["input_ids"])
    return list(own.template.encode(encodable(text), add_special_tokens=add_special_tokens).ids)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """What the tokenizer recognises as a single token of its own wherever it stands, such as `<|im_end|>`."""
    own = _copies(tokenizer)
    if own is not None:
        return own.control_tokens
    return frozenset(t for t in {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()} if t.strip())


def encodable(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which no encoding has; every character keeps its place."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def left_pad(rows: Sequence[Tensor], fill: int) -> tuple[Tensor, Tensor]:
    """Stack int64 [tokens] rows into a left-padded [batch, tokens], with its mask (1 where there is a token)."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = row
        mask[i, width - len(row) :] = 1
    return ids, mask


def _copies(tokenizer: PreTrainedTokenizerBase) -> _Backends | None:
    """The private copies of a fast tokenizer's backend; None for a slow tokenizer, which keeps no switch."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return None
    vocabulary = backend.get_vocab_size(with_added_tokens=True)
    own = state_of(tokenizer, _OwnBackends)
    backends = own.backends
    if backends is None or backends.vocabulary != vocabulary:
        with _copy_lock:
            backends = own.backends = _copied(backend, vocabulary)
    return backends


def _copied(backend: Tokenizer, vocabulary: int) -> _Backends:
    settings = json.loads(backend.to_str())
    settings["truncation"] = settings["padding"] = None
    added = settings["added_tokens"]
    # added words and runs of spaces are text like any other
    control = frozenset(
        t["content"] for t in added if t["content"] and (t["special"] or MARKUP.fullmatch(t["content"]))
    )
    for token in added:
        # recognised letter by letter alone: not what a normalizer makes of other letters
        token["normalized"] = token["normalized"] and token["content"] not in control
    template = Tokenizer.from_str(json.dumps(settings))
    template.encode_special_tokens = False
    for token in added:  # not taken out: the ids of those behind them would move
        token["special"] = token["content"] in control
    text = Tokenizer.from_str(json.dumps(settings))
    text.encode_special_tokens = True
    return _Backends(vocabulary, text, template, control)


def right_pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack int64 [tokens] rows into a right-padded [batch, tokens], with a bool mask of what is there."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
