"""Which units are kept within a budget: by falling score, each that fits; each sentence once.

The kept text never exceeds the budget, as counted on the text itself. This module knows numbers and spans; it does not
know models, or where scores come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spec_rag.compression.passages import Passage
from spec_rag.config import CompressionConfig
from spec_rag.text.documents import Document
from spec_rag.text.token_counter import Counter
from spec_rag.text.units import Span, kept_text, merged, word_spans

_MIN_CUT_TOKENS, _MIN_CUT_SHARE = 8, 0.5
_MIN_REPEATED_WORDS = 4  # shorter texts, such as a closing bracket, may well stand twice
_CUT_MARK = "…"


@dataclass(frozen=True)
class Reading:
    """Documents after the draft has read them, for one question.

    Attributes:
        documents: as given.
        question: what they were read for.
        draft: name of the draft.
        units: per document, spans of its units.
        passages: what was read in one piece.
        scores: [units of all documents], or None where nothing was read.
        tokens: [tokens of all passages], importance of each.
        seconds: wall time of the reading.
    """

    documents: Sequence[Document]
    question: str
    draft: str
    units: Sequence[Sequence[Span]]
    passages: Sequence[Passage]
    scores: Tensor | None
    tokens: Tensor
    seconds: float

    @classmethod
    def unread(cls, documents: Sequence[Document], question: str, draft: str) -> Reading:
        """Documents that fit as they are."""
        return cls(documents, question, draft, [[] for _ in documents], [], None, torch.zeros(0), 0.0)


@dataclass(frozen=True)
class Kept:
    """What is left of one document.

    Attributes:
        spans: kept character ranges, ascending, not touching each other.
        text: what they read like together.
    """

    spans: list[Span]
    text: str


def select(reading: Reading, config: CompressionConfig, count: Counter, budget: int) -> list[Kept]:
    """What is kept of each document: whole units, and where `cut_units` allows it, the best words of others.

    Args:
        reading: scored documents.
        config: unit, coverage, ellipsis, cut_units.
        count: tokens of a text.
        budget: the most tokens of the kept texts together.
    """
    return _Selection(reading, config, count).within(budget)


def select_units(
    scores: Tensor,
    tokens: Sequence[int],
    budget: int,
    coverage: float | None = None,
    part_of: Callable[[int, int], int] | None = None,
    at_least: int = 0,
) -> list[int]:
    """Take units by falling score: each that still fits, and a part of those that do not.

    Args:
        scores: [units]; one of -inf is never taken.
        tokens: length of each unit, at least 1.
        budget: the most tokens in all.
        coverage: stop when the units taken carry this share of the importance: the softmax of the scores.
        part_of: called with a unit that does not fit and the room that is left; returns how many tokens a part of it
            takes, 0 to skip it. None skips all.
        at_least: tokens that are taken, as far as the budget goes, before `coverage` may stop.

    Returns:
        Indices of the kept units, ascending.
    """
    mass = scores.float().softmax(0).tolist() if len(scores) else []
    kept: list[int] = []
    room, carried = budget, 0.0
    for i in scores.argsort(descending=True, stable=True).tolist():
        covered = coverage is not None and carried >= coverage and budget - room >= at_least
        if covered or scores[i] == -torch.inf:
            break
        taken = tokens[i] if tokens[i] <= room else part_of(i, room) if part_of else 0
        if taken:
            kept.append(i)
            room -= taken
            carried += mass[i]
    return sorted(kept)


def originals(texts: Sequence[str], at_edge: Sequence[bool]) -> list[int]:
    """For each unit the one that stands for it: the first of the same text, or the whole of what it is a piece of.

    Case and white space do not matter, and texts of less than four words stand for themselves.

    Args:
        texts: of the units of all documents, in reading order.
        at_edge: whether a unit is the first or last of its document, where a splitter may have cut a sentence: such a
            piece is stood for by a unit that contains it.
    """
    words = [_folded_words(text) for text in texts]
    first: dict[tuple[str, ...], int] = {}
    original = [i if len(own) < _MIN_REPEATED_WORDS else first.setdefault(own, i) for i, own in enumerate(words)]
    pieces = [i for i, edge in enumerate(at_edge) if edge and original[i] == i and len(words[i]) >= _MIN_REPEATED_WORDS]
    if not pieces:
        return original
    wanted = {words[i][:_MIN_REPEATED_WORDS] for i in pieces}
    holders: dict[tuple[str, ...], list[int]] = {}
    for j, own in enumerate(words):
        if original[j] == j:
            for k in range(len(own) - _MIN_REPEATED_WORDS + 1):
                if (shingle := own[k : k + _MIN_REPEATED_WORDS]) in wanted:
                    holders.setdefault(shingle, []).append(j)
    joined: dict[int, str] = {}
    for i in sorted(pieces, key=lambda i: len(words[i]), reverse=True):  # a holder may be a piece of a longer one
        for j in holders[words[i][:_MIN_REPEATED_WORDS]]:
            whole = joined.setdefault(j, f" {' '.join(words[j])} ")
            if len(words[j]) > len(words[i]) and f" {' '.join(words[i])} " in whole:
                original[i] = original[j]
                break
    return [original[j] for j in original]


def touched(units: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Whether each unit shares a character with one of the spans; both are ascending."""
    found, i = [], 0
    for start, end in units:
        while i < len(spans) and spans[i][1] <= start:
            i += 1
        found.append(i < len(spans) and spans[i][0] < end)
    return found


def longest_prefix(text: str, span: Span, count: Counter, budget: int) -> Span | None:
    """The longest beginning of a span that ends at a word border and fits; None if not even a word does."""
    start, end = span
    borders = [start + stop for _, stop in word_spans(text[start:end])]
    low, high = 0, len(borders)
    while low < high:
        middle = (low + high) // 2
        if count(text[start : borders[middle]]) <= budget:
            low = middle + 1
        else:
            high = middle
    return (start, borders[low - 1]) if low else None


def best_window(text: str, span: Span, word_scores: Sequence[float], count: Counter, budget: int) -> Span | None:
    """The run of whole words of a span that fits and has the highest sum of scores.

    Args:
        word_scores: one per word of the span.
        count: tokens of a text.
        budget: the most tokens of the run.
    """
    words = [(span[0] + a, span[0] + b) for a, b in word_spans(text[span[0] : span[1]])]
    best: tuple[float, Span] | None = None
    for first in range(len(words)):
        fitting = longest_prefix(text, (words[first][0], span[1]), count, budget)
        if fitting is None:
            continue
        last = max(i for i in range(first, len(words)) if words[i][1] <= fitting[1])
        total = sum(word_scores[first : last + 1])
        if best is None or total > best[0]:
            best = (total, (words[first][0], words[last][1]))
    return best[1] if best else None


@dataclass(frozen=True)
class _Unit:
    """Where a unit stands, and how long it is."""

    document: int
    span: Span
    tokens: int


class _Selection:
    """Selects the units of one reading for one budget."""

    def __init__(self, reading: Reading, config: CompressionConfig, count: Counter) -> None:
        assert reading.scores is not None
        self.texts = [document.text for document in reading.documents]
        self.reading = reading
        self.config = config
        self.count = count
        self.units = [
            _Unit(d, span, max(1, count(self.texts[d][slice(*span)])))
            for d, spans in enumerate(reading.units)
            for span in spans
        ]
        self.scores = self._once_each(reading.scores)

    def within(self, budget: int) -> list[Kept]:
        """Kept text per document, together at most `budget` tokens long."""
        room = budget
        while True:
            kept = self._filled(room)
            excess = sum(self.count(one.text) for one in kept if one.text) - budget
            if excess <= 0:
                return kept
            room -= excess  # what joins the kept units costs tokens too; units cost at least one, so this ends

    def _once_each(self, scores: Tensor) -> Tensor:
        """The scores with -inf for what repeats another unit, which gets the best score of them all."""
        if self.config.unit != "sentence":
            return scores
        edges = [i in (0, len(spans) - 1) for spans in self.reading.units for i in range(len(spans))]
        stands_for = originals([self.texts[u.document][slice(*u.span)] for u in self.units], edges)
        best = scores.clone()
        for i, original in enumerate(stands_for):
            if original != i:
                best[original] = torch.maximum(best[original], scores[i])
                best[i] = -torch.inf
        return best

    def _filled(self, room: int) -> list[Kept]:
        cut: dict[int, Span] = {}

        def part_of(unit: int, left: int) -> int:
            if left < max(_MIN_CUT_TOKENS, _MIN_CUT_SHARE * self.units[unit].tokens):
                return 0
            return self._cut(unit, left, cut)

        cuts = self.config.cut_units and self.config.unit == "sentence" and self.config.coverage is None
        tokens = [unit.tokens for unit in self.units]
        coverage, floor = self.config.coverage, self.config.min_tokens
        kept = select_units(self.scores, tokens, room, coverage, part_of if cuts else None, floor)
        if not kept and cuts:
            best = self.scores.argsort(descending=True, stable=True).tolist()
            kept = [i for i in [next((i for i in best if self._cut(i, room, cut)), -1)] if i >= 0]
        return self._per_document(kept, cut)

    def _cut(self, index: int, room: int, cut: dict[int, Span]) -> int:
        """Put the best run of a unit's words that fits into `cut`; returns its tokens."""
        unit = self.units[index]
        text = self.texts[unit.document]
        window = best_window(text, unit.span, self._word_scores(unit), self.count, room)
        if window is None:
            return 0
        cut[index] = window
        return self.count(text[slice(*window)])

    def _per_document(self, kept: Sequence[int], cut: dict[int, Span]) -> list[Kept]:
        found = []
        position = first = 0
        for d, own in enumerate(self.reading.units):
            indices = []
            while position < len(kept) and kept[position] < first + len(own):
                indices.append(kept[position])
                position += 1
            spans = merged([cut.get(i, self.units[i].span) for i in indices], own, [i - first for i in indices])
            # what was cut out of a sentence must not look like one
            ellipsis = self.config.ellipsis or (f" {_CUT_MARK} " if any(i in cut for i in indices) else "")
            found.append(Kept(spans, kept_text(self.texts[d], spans, ellipsis)))
            first += len(own)
        return found

    def _word_scores(self, unit: _Unit) -> list[float]:
        start, end = unit.span
        passage = next(
            p for p in self.reading.passages if p.document == unit.document and p.start <= start and end <= p.end
        )
        scores = []
        for a, b in word_spans(self.texts[unit.document][start:end]):
            first, last = passage.token_range(start + a, start + b)
            scores.append(float(self.reading.tokens[first:last].sum()) if last > first else 0.0)
        return scores


def _folded_words(text: str) -> tuple[str, ...]:
    folded = text.casefold()
    return tuple(folded[a:b] for a, b in word_spans(folded))
