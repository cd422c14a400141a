"""From scores to what is left: units within a budget, the text they leave, and the numbers of it.

The kept text never exceeds the budget, as counted on the text itself. This module does not know models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

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
    texts = [document.text for document in reading.documents]
    before = [count(text) for text in texts]
    budget = min(config.budget_tokens(sum(before)), sum(before))
    if reading.scores is None:
        units: Sequence[Sequence[Span]] = [unit_spans(text, config.unit) for text in texts]
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
        """Kept spans per document: whole units, then the best words of the best unit that does not fit whole."""
        lengths = list(self.lengths)
        while True:
            kept = select_units(scores, lengths, budget, self.config.coverage)
            spans = self._spans(kept)
            used = self._used(spans)
            if used <= budget or not kept:
                break
            # what joins the kept units costs tokens too: give up the least of them
            lengths[min(kept, key=lambda i: float(scores[i]))] = budget + 1
        if not kept or (self.config.unit == "sentence" and self.config.coverage is None):
            return self._with_part_of_one_more(scores, kept, spans, budget)
        return spans

    def _spans(self, kept: Sequence[int]) -> list[list[Span]]:
        spans = []
        first = 0
        for own in self.reading.units:
            indices = [i - first for i in kept if first <= i < first + len(own)]
            spans.append(merged([own[i] for i in indices], own, indices))
            first += len(own)
        return spans

    def _used(self, spans: Sequence[Sequence[Span]]) -> int:
        pairs = zip(self.texts, spans, strict=True)
        return sum(self.count(kept_text(text, own, self.config.ellipsis)) for text, own in pairs if own)

    def _with_part_of_one_more(
        self, scores: Tensor, kept: Sequence[int], spans: list[list[Span]], budget: int
    ) -> list[list[Span]]:
        """Spend what is left on the best run of words of the next unit of which at least half fits."""
        room = budget - self._used(spans)
        for i in scores.argsort(descending=True, stable=True).tolist():
            if i in kept or room < 1:
                continue
            if kept and room < max(_MIN_CUT_TOKENS, _MIN_CUT_SHARE * self.lengths[i]):
                continue
            address = self.addresses[i]
            window = best_window(
                self.texts[address.document], address.span, self._word_scores(address), self.count, room
            )
            if window is None:
                continue
            candidate = [*spans]
            candidate[address.document] = sorted([*spans[address.document], window])
            if self._used(candidate) <= budget:
                return candidate
        return spans

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
