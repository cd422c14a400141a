"""Tokenization. Control tokens are recognised in templates only: spelled out in a text, they stay text.

Recognition of control tokens is a mutable setting of a fast tokenizer, which is not thread-safe. So each tokenizer has
two private copies of its backend, one that recognises control tokens and one that does not.
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
    """Token ids of a text, and the half-open character range of each token."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@dataclass(frozen=True)
class _Backends:
    """Two copies of a tokenizer's backend."""

    vocabulary: int
    text: Tokenizer
    template: Tokenizer
    control_tokens: frozenset[str]


class _OwnBackends:
    """The copies that belong to one tokenizer."""

    backends: _Backends | None = None


_copy_lock = new_lock()


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Token ids of a text; control tokens in it stay text.

    Args:
        tokenizer: any tokenizer of transformers.
        text: any text; lone surrogates become U+FFFD.
        add_special_tokens: add the tokenizer's special tokens, such as BOS.
    """
    backends = _copies(tokenizer)
    if backends is None:
        slow = tokenizer(encodable(text), add_special_tokens=add_special_tokens, split_special_tokens=True)
        return list(slow["input_ids"])
    return list(backends.text.encode(encodable(text), add_special_tokens=add_special_tokens).ids)


def encoded_text(tokenizer: PreTrainedTokenizerBase, text: str, *, is_text: bool = True) -> EncodedText:
    """`text_ids`, or `template_ids` if not `is_text`, with the character range of each token.

    Raises:
        ConfigError: the tokenizer is not a fast one, so it has no offsets.
    """
    backends = _copies(tokenizer)
    if backends is None:
        raise ConfigError(
            f"tokenizer of type {type(tokenizer).__name__} gives no character offsets: load a fast tokenizer."
        )
    encoded = (backends.text if is_text else backends.template).encode(encodable(text), add_special_tokens=False)
    return EncodedText(list(encoded.ids), list(encoded.offsets))


def template_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Token ids of a template's text; control tokens are recognised."""
    backends = _copies(tokenizer)
    if backends is None:
        return list(tokenizer(encodable(text), add_special_tokens=add_special_tokens)["input_ids"])
    return list(backends.template.encode(encodable(text), add_special_tokens=add_special_tokens).ids)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Strings that the tokenizer always recognises as one token, such as `<|im_end|>`."""
    backends = _copies(tokenizer)
    if backends is not None:
        return backends.control_tokens
    return frozenset(t for t in {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()} if t.strip())


def encodable(text: str) -> str:
    """Replace lone surrogates, which cannot be encoded, by U+FFFD; offsets stay the same."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def left_pad(rows: Sequence[Tensor], fill: int) -> tuple[Tensor, Tensor]:
    """Stack int64 [tokens] rows into a left-padded [batch, tokens], with its mask (1 for tokens)."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = row
        mask[i, width - len(row) :] = 1
    return ids, mask


def _copies(tokenizer: PreTrainedTokenizerBase) -> _Backends | None:
    """The private copies of a fast tokenizer's backend; None for a slow tokenizer."""
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
    # other added tokens, such as words and runs of spaces, are ordinary text
    control = frozenset(
        t["content"] for t in added if t["content"] and (t["special"] or MARKUP.fullmatch(t["content"]))
    )
    for token in added:
        # match control tokens exactly, not after normalization
        token["normalized"] = token["normalized"] and token["content"] not in control
    template = Tokenizer.from_str(json.dumps(settings))
    template.encode_special_tokens = False
    for token in added:  # kept in the list: removing one would shift the ids of the following ones
        token["special"] = token["content"] in control
    text = Tokenizer.from_str(json.dumps(settings))
    text.encode_special_tokens = True
    return _Backends(vocabulary, text, template, control)


def right_pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack int64 [tokens] rows into a right-padded [batch, tokens], with a bool mask of the tokens."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
