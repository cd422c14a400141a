"""From scores to what is left: units within a budget, the text they leave, and the numbers of it.

The kept text never exceeds the budget, as counted on the text itself. This module does not know models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

import torch
from torch import Tensor

from spec_rag.config import CompressionConfig
from spec_rag.counting import Counter
from spec_rag.documents import Document
from spec_rag.evidence import Passage
from spec_rag.results import CompressedDocument, Compression, KeptUnit
from spec_rag.unit_selection import best_window, kept_text, merged, select_units
from spec_rag.units import Span, unit_spans, word_spans

_MIN_CUT_TOKENS, _MIN_CUT_SHARE = 8, 0.5


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


def keep(reading: Reading, config: CompressionConfig, count: Counter) -> Compression:
    """Keep the best units within the budget.

    Args:
        reading: scored documents.
        config: budget, unit, ellipsis.
        count: tokens of a text.
    """
    count = cache(count)  # units are counted to choose, to cut and to report
    texts = [document.text for document in reading.documents]
    before = [count(text) for text in texts]
    budget = min(config.budget_tokens(sum(before)), sum(before))
    if reading.scores is None:
        units: Sequence[Sequence[Span]] = [unit_spans(text, config.unit, config.language) for text in texts]
        kept: list[list[Span]] = [[(0, len(text))] if text.strip() else [] for text in texts]
        scores = torch.zeros(sum(len(own) for own in units))
    else:
        units, scores = reading.units, reading.scores
        kept = _Keeper(texts, reading, config, count).keep(scores, budget)
    documents = []
    position = 0
    for d, document in enumerate(reading.documents):
        text = document.text if reading.scores is None else kept_text(document.text, kept[d], config.ellipsis)
        documents.append(
            CompressedDocument(
                text=text if kept[d] else "",
                spans=kept[d],
                source=document.source,
                title=document.title,
                original_text=document.text,
                tokens_before=before[d],
                tokens_after=count(text) if kept[d] else 0,
                units=[
                    KeptUnit(
                        start,
                        end,
                        float(scores[position + i]),
                        count(document.text[start:end]),
                        any(a < end and b > start for a, b in kept[d]),
                    )
                    for i, (start, end) in enumerate(units[d])
                ],
            )
        )
        position += len(units[d])
    return Compression(documents, reading.question, budget, reading.draft, reading.seconds, asdict(config))


@dataclass(frozen=True)
class _Address:
    """Where a unit stands."""

    document: int
    span: Span


class _Keeper:
    """Selects the units of one reading for one budget."""

    def __init__(self, texts: Sequence[str], reading: Reading, config: CompressionConfig, count: Counter) -> None:
        self.texts = texts
        self.reading = reading
        self.config = config
        self.count = count
        self.addresses = [_Address(d, span) for d, spans in enumerate(reading.units) for span in spans]
        self.lengths = [count(texts[a.document][slice(*a.span)]) for a in self.addresses]

    def keep(self, scores: Tensor, budget: int) -> list[list[Span]]:
        """Kept spans per document: whole units, and of those that do not fit whole their best words."""
        room = budget
        while True:
            kept = self._filled(scores, room)
            excess = self._used(kept) - budget
            if excess <= 0:
                return kept
            room -= excess  # what joins the kept units costs tokens too

    def _filled(self, scores: Tensor, room: int) -> list[list[Span]]:
        spans = {i: address.span for i, address in enumerate(self.addresses)}

        def part_of(unit: int, left: int) -> int:
            if left < max(_MIN_CUT_TOKENS, _MIN_CUT_SHARE * self.lengths[unit]):
                return 0
            return self._cut(unit, left, spans)

        cuts = self.config.unit == "sentence" and self.config.coverage is None
        kept = select_units(scores, self.lengths, room, self.config.coverage, part_of if cuts else None)
        if not kept:
            best = scores.argsort(descending=True, stable=True).tolist()
            kept = [next((i for i in best if self._cut(i, room, spans)), -1)]
        return self._per_document([i for i in kept if i >= 0], spans)

    def _cut(self, unit: int, room: int, spans: dict[int, Span]) -> int:
        """Put the best run of a unit's words that fits into `spans`; returns its tokens."""
        address = self.addresses[unit]
        text = self.texts[address.document]
        window = best_window(text, address.span, self._word_scores(address), self.count, room)
        if window is None:
            return 0
        spans[unit] = window
        return self.count(text[slice(*window)])

    def _per_document(self, kept: Sequence[int], spans: dict[int, Span]) -> list[list[Span]]:
        found = []
        first = 0
        for own in self.reading.units:
            indices = [i for i in kept if first <= i < first + len(own)]
            found.append(merged([spans[i] for i in indices], own, [i - first for i in indices]))
            first += len(own)
        return found

    def _used(self, spans: Sequence[Sequence[Span]]) -> int:
        pairs = zip(self.texts, spans, strict=True)
        return sum(self.count(kept_text(text, own, self.config.ellipsis)) for text, own in pairs if own)

    def _word_scores(self, address: _Address) -> list[float]:
        start, end = address.span
        passage = next(
            p for p in self.reading.passages if p.document == address.document and p.start <= start and end <= p.end
        )
        scores = []
        for a, b in word_spans(self.texts[address.document][start:end]):
            first, last = passage.token_range(start + a, start + b)
            scores.append(float(self.reading.tokens[first:last].sum()) if last > first else 0.0)
        return scores
