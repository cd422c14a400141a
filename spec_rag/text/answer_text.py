"""Incremental decoding of an answer with stop strings: the text so far and the part that is final.

Streams, the stop criterion and the final answer use the same text, so they agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from spec_rag.text.tokenization import MARKUP, control_tokens
from spec_rag.utils.object_state import state_of

_LONGEST_WINDOW = 64  # tokens decoded again with each new one
_OVERLAP = 16  # tokens, and characters, kept before a shortened window
_CLEAN_UP_CHARACTERS = 8  # clean_up_tokenization_spaces changes at most this many characters before a new one
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_REPLACEMENT = "\ufffd"


class _SpecialIds:
    """Cached special tokens of one tokenizer, valid while its size is the same."""

    size = -1
    ids: frozenset[int] = frozenset()


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens that `skip_special_tokens` removes."""
    added, size = state_of(tokenizer, _SpecialIds), len(tokenizer)
    if added.size != size:  # some tokenizers have thousands of added tokens and list them slowly
        added.ids = frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
        added.size = size  # last: another thread may read meanwhile
    return added.ids | frozenset(tokenizer.all_special_ids)


def hidden_ids(tokenizer: PreTrainedTokenizerBase, ends: Iterable[int] = ()) -> frozenset[int]:
    """Ids removed from answers: special tokens, and end tokens that are control tokens."""
    control = control_tokens(tokenizer)
    named = {i: tokenizer.convert_ids_to_tokens(i) for i in ends}
    hidden_ends = {i for i, token in named.items() if token in control or (token and MARKUP.fullmatch(token))}
    return special_ids(tokenizer) | hidden_ends


def answer_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], ends: Iterable[int] = ()) -> str:
    """Decode an answer's ids without special tokens and end tokens."""
    hidden = hidden_ids(tokenizer, ends)
    return _decoded(tokenizer, [i for i in ids if i not in hidden], skip=True)


class GrowingText:
    """Incremental decoding; the result equals decoding all tokens at once.

    Each step decodes a window of the last tokens, so its cost does not grow with the text.

    Attributes:
        text: text of all tokens so far.
        settled: length of the prefix of `text` that no later token changes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, hidden: Collection[int] = (), *, skip: bool = True) -> None:
        """Start with no tokens.

        Args:
            tokenizer: any tokenizer of transformers.
            hidden: ids to remove.
            skip: remove special tokens, too.
        """
        self.text = ""
        self.settled = 0
        self._tokenizer = tokenizer
        self._hidden = frozenset(hidden) | (special_ids(tokenizer) if skip else frozenset())
        self._skip = skip
        self._window: list[int] = []
        self._before = ""  # text before the window
        self._overlap = 0  # characters of the window that `_before` already has
        self._limit = _LONGEST_WINDOW
        self._cleans_up = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
        self._settles = _is_local(_decoder_settings(tokenizer))

    def add(self, ids: Iterable[int]) -> None:
        """Append the next tokens."""
        new = [i for i in ids if i not in self._hidden]
        if not new:
            return
        self._window += new
        decoded = self._decode(self._window)
        self.text = self._before + decoded[self._overlap :]
        if not self._settles or self._is_byte(self._window[-1]):
            return  # one more byte token may change the decoding of the whole run of bytes to U+FFFD
        end = len(self.text.rstrip(_REPLACEMENT)) - (_CLEAN_UP_CHARACTERS if self._cleans_up else 0)
        self.settled = max(self.settled, end)
        if len(self._window) >= self._limit:
            self._shorten(decoded)

    def _shorten(self, decoded: str) -> None:
        """Drop the window's first tokens if the rest decodes to the same characters without them."""
        border = len(self._window) - _OVERLAP
        while border > 0 and (self._is_byte(self._window[border - 1]) or self._is_byte(self._window[border])):
            border -= 1
        start = border - _OVERLAP
        self._limit = 2 * len(self._window)
        if start <= 0:
            return
        head, overlap, tail = (
            self._decode(self._window[part]) for part in (slice(border), slice(start, border), slice(start, None))
        )
        rest = tail[len(overlap) :]
        long_enough = min(len(overlap), len(rest)) >= _OVERLAP
        if long_enough and not head.endswith(_REPLACEMENT) and tail.startswith(overlap) and decoded == head + rest:
            self._before += head[self._overlap :]
            self._overlap = len(overlap)
            self._window = self._window[start:]
            self._limit = _LONGEST_WINDOW

    def _decode(self, ids: Sequence[int]) -> str:
        return _decoded(self._tokenizer, ids, skip=self._skip)

    def _is_byte(self, token: int) -> bool:
        name = self._tokenizer.convert_ids_to_tokens(token)
        return bool(name and _BYTE.fullmatch(name))


class AnswerText:
    """Incremental text of an answer up to its first stop string.

    Stop strings are searched in the visible text; those that contain a special token, in the text with special tokens.
    The prompt is not part of the text, so a stop string that starts in the prompt never matches.

    Attributes:
        text: the text so far, cut before the first stop string.
        ready: length of the prefix of `text` that is final. The rest is held back: it may be the start of a stop
            string, or later tokens may change it.
        tokens: number of tokens, up to the one that completed a stop string.
        stopped: whether a stop string is complete; later tokens are ignored.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), ends: Iterable[int] = ()) -> None:
        """Start with no tokens.

        Args:
            tokenizer: any tokenizer of transformers.
            stop: the stop strings.
            ends: the end tokens of the answer.
        """
        self.text = ""
        self.ready = 0
        self.tokens = 0
        self.stopped = False
        self._hidden = hidden_ids(tokenizer, ends)
        names = [str(tokenizer.convert_ids_to_tokens(i)) for i in self._hidden] if stop else []
        self._raw_stops = [s for s in stop if any(name and name in s for name in names)]
        self._stops = [s for s in stop if s not in self._raw_stops]
        self._shown = GrowingText(tokenizer, self._hidden)
        self._raw = GrowingText(tokenizer, skip=False)
        self._steps: list[tuple[int, int, bool]] = []  # raw length, visible length, is the token hidden

    def add(self, *tokens: int) -> None:
        """Append the next tokens."""
        if self.stopped or not tokens:
            return
        searched = max(0, self._shown.settled - max(map(len, self._stops), default=0))
        self._shown.add(tokens)
        self.tokens += len(tokens)
        cuts = [at for at in (self._shown.text.find(s, searched) for s in self._stops) if at >= 0]
        if self._raw_stops:
            cuts += self._raw_cuts(tokens)
        self.stopped = bool(cuts)
        self.text = self._shown.text[: min(cuts)] if cuts else self._shown.text
        self.ready = len(self.text) if cuts else max(self.ready, self._shown.settled - self._held())

    def _raw_cuts(self, tokens: Sequence[int]) -> list[int]:
        """Offsets in the visible text of stop strings that contain special tokens."""
        searched = max(0, self._raw.settled - max(map(len, self._raw_stops)))
        self._raw.add(tokens)
        self._steps.append((len(self._raw.text), len(self._shown.text), tokens[-1] in self._hidden))
        found = [self._raw.text.find(s, searched) for s in self._raw_stops]
        return [self._shown_length(at) for at in found if at >= 0]

    def _shown_length(self, at: int) -> int:
        """Map an offset of the text with special tokens to one of the visible text."""
        before = next((i for i in range(len(self._steps), 0, -1) if self._steps[i - 1][0] <= at), 0)
        raw, shown = self._steps[before - 1][:2] if before else (0, 0)
        inside_hidden = before < len(self._steps) and self._steps[before][2]
        return shown if inside_hidden else shown + at - raw

    def _held(self) -> int:
        """Length of the longest suffix of the settled text that is a prefix of a stop string."""
        settled = self._shown.text[: self._shown.settled]
        held = [_overlap(settled, s) for s in self._stops]
        for s in self._raw_stops:
            held += [_overlap(self._raw.text, s), _overlap(self._raw.text[: self._raw.settled], s)]
        return max(held, default=0)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of the text that is a proper prefix of the stop string."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, skip: bool) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=skip)) if ids else ""


def _decoder_settings(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The settings of a fast tokenizer's decoder, or None."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    return None if decoder is None else json.loads(decoder.__getstate__())


def _is_local(decoder: Any) -> bool:
    """Whether a decoder changes at most the text of the last few tokens."""
    if not decoder:
        return True
    if decoder["type"] == "Sequence":
        return all(map(_is_local, decoder["decoders"]))
    if decoder["type"] == "Replace":
        return len(decoder["pattern"].get("String", "long")) == 1
    return bool(decoder["type"] != "CTC")
