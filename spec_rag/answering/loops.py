"""Detection of repetition in a streamed answer: a periodic end ("1.1.1.1.1."), or a sentence written three times.

The repeated part is held back, so that it is neither shown nor returned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MAX_PERIOD = 400
_MIN_COPIES = ((1, 24), (4, 8), (19, 5), (_MAX_PERIOD, 3))
"""Longest period in characters, and the number of copies from which it is a loop."""

_SENTENCES = 3
_SENTENCE_CHARS = 12
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_LIST_MARK = re.compile(r"\s*(?:\d{1,3}[.)]|[-*•])\s+")
_HELD_COPIES = ((3, 4), (_MAX_PERIOD, 2))
"""As above, but for holding text back. Short periods, such as "000", are common."""


class LoopGuard:
    """Filter for pieces of an answer that stops at a repetition.

    Attributes:
        looping: whether a repetition was found; later pieces are dropped.
    """

    def __init__(self) -> None:
        self.looping = False
        self._text = ""
        self._passed = 0
        self._end: int | None = None

    @property
    def text(self) -> str:
        """The text without repetitions, including those that were passed on before detection."""
        return self._text[: self._passed][: self._end].rstrip() if self.looping else self._text[: self._passed]

    def feed(self, piece: str) -> str:
        """Process a piece; returns the text that can be shown, "" while it may be a repetition."""
        if self.looping:
            return ""
        self._text += piece
        self._end = _loop_start(self._text)
        if self._end is not None:
            self.looping = True
            return self._pass_to(max(self._end, self._passed))
        return self._pass_to(max(_safe_end(self._text), self._passed))

    def finish(self) -> str:
        """The remaining held text at the end of the answer."""
        return "" if self.looping else self._pass_to(len(self._text))

    def _pass_to(self, end: int) -> str:
        piece, self._passed = self._text[self._passed : end], end
        return piece


def _loop_start(text: str) -> int | None:
    """Index at which the repetition starts, or None."""
    for period, length in _periods(text):
        if length >= period * _copies(period, _MIN_COPIES):
            return len(text) - length + period
    return _third_sentence(text)


def _safe_end(text: str) -> int:
    """End of the text that cannot be part of a repetition."""
    held = [
        len(text) - length + period
        for period, length in _periods(text)
        if length >= period * _copies(period, _HELD_COPIES)
    ]
    return min(held, default=len(text))


def _copies(period: int, table: Sequence[tuple[int, int]]) -> int:
    return next(copies for longest, copies in table if period <= longest)


def _periods(text: str) -> list[tuple[int, int]]:
    """Ascending periods of the end of a text that contain a letter or digit, with the covered length."""
    periods = []
    tail = text[-4 * _MAX_PERIOD :]
    for period in range(1, min(_MAX_PERIOD, len(tail) // 2) + 1):
        unit = tail[-period:]
        if tail[-2 * period : -period] != unit or not any(character.isalnum() for character in unit):
            continue
        start = len(tail) - period
        while start > 0 and tail[start - 1] == tail[start - 1 + period]:
            start -= 1
        periods.append((period, len(tail) - start))
    return periods


def _third_sentence(text: str) -> int | None:
    """End of the first copy of a sentence that occurs three times, or None."""
    ends: dict[str, list[int]] = {}
    start = 0
    for border in _SENTENCE.finditer(text):
        mark = _LIST_MARK.match(text, start, border.start())
        sentence = text[mark.end() if mark else start : border.start()].strip().casefold()
        sentence_ends = ends.setdefault(sentence, [])
        sentence_ends.append(border.start())
        start = border.end()
        if len(sentence_ends) == _SENTENCES and len(sentence) >= _SENTENCE_CHARS:
            return sentence_ends[0]
    return None
