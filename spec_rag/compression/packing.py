"""Which units are kept within a budget: required units, then by falling score each that fits with what it needs.

The kept text stays within the budget, as counted on the text itself, unless nothing worth keeping fits: then it is the
best unit. This module knows numbers and spans; it does not know models, or where scores come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest

import torch
from torch import Tensor

from spec_rag.compression.duplicates import originals
from spec_rag.compression.passages import Passage
from spec_rag.compression.path_match import PathMatch
from spec_rag.compression.required_units import check_fits, floors, neighbours, protected
from spec_rag.compression.unit_cutting import best_window
from spec_rag.options.compression import CompressionConfig
from spec_rag.results import PassageStatistics, Reason
from spec_rag.text.documents import Document
from spec_rag.text.structure.outline import CONTENT, Structure
from spec_rag.text.token_counting import Counter
from spec_rag.text.units import MARK, Span, kept_text, merged, word_spans
from spec_rag.text.words import has_words

_MIN_CUT_TOKENS, _MIN_CUT_SHARE = 8, 0.5
_CUT_MARK = "…"


@dataclass(frozen=True)
class ScoredDocuments:
    """Documents after the draft has read them, for one question.

    Attributes:
        documents: as given.
        question: what they were read for.
        draft: name of the draft.
        units: per document, spans of its units.
        passages: what was read in one piece.
        scores: [units of all documents], or None where nothing was read.
        probabilities: [units of all documents], how likely each is needed; None where scores are not calibrated.
        answerable: how likely any unit is needed, or None.
        tokens: [tokens of all passages], importance of each.
        seconds: wall time of the reading, without the wait for the draft.
        looks: what was looked at of each passage.
        structures: per document, the kinds and needs of its units; empty where they are not known.
        paths: how the places of the units match the question, or None.
    """

    documents: Sequence[Document]
    question: str
    draft: str
    units: Sequence[Sequence[Span]]
    passages: Sequence[Passage]
    scores: Tensor | None
    tokens: Tensor
    seconds: float
    looks: Sequence[PassageStatistics] = ()
    structures: Sequence[Structure] = ()
    paths: PathMatch | None = None
    probabilities: Tensor | None = None
    answerable: float | None = None

    @property
    def importance(self) -> Tensor:
        """[units of all documents]: probabilities, or else scores."""
        assert self.scores is not None
        return self.scores if self.probabilities is None else self.probabilities

    @classmethod
    def unread(cls, documents: Sequence[Document], question: str, draft: str) -> ScoredDocuments:
        """Documents that fit as they are."""
        return cls(documents, question, draft, [[] for _ in documents], [], None, torch.zeros(0), 0.0)


@dataclass(frozen=True)
class SelectedText:
    """What is left of one document.

    Attributes:
        spans: kept character ranges, ascending, not touching each other.
        text: what they read like together.
        reasons: per unit, why it was kept, or None.
    """

    spans: list[Span]
    text: str
    reasons: list[Reason | None] = field(default_factory=list)


def select(reading: ScoredDocuments, config: CompressionConfig, count: Counter, budget: int) -> list[SelectedText]:
    """What is kept of each document: whole units, and where `cut_units` allows it, the best words of others.

    Args:
        reading: scored documents.
        config: unit, coverage, ellipsis, cut_units, and what is held.
        count: tokens of a text.
        budget: the most tokens of the kept texts together. Only a best unit that is kept alone may exceed it.

    Raises:
        BudgetTooSmallError: what is held does not fit.
    """
    return _Selection(reading, config, count).within(budget)


class BudgetTracker:
    """Units taken one after the other, as long as there is room for them in all and in their document.

    Args:
        tokens: length of each unit, at least 1.
        documents: the document of each unit.
        mass: the share of the importance that each unit carries.
        room: the most tokens in all.
        rooms: the most tokens of each document.
        needs: what must be taken with a unit, in full and without the optional units; None for nothing.
        gap_tokens: tokens of the mark between two pieces of a document.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        documents: Sequence[int],
        mass: Sequence[float],
        room: int,
        rooms: Sequence[int],
        needs: Callable[[int, bool], Sequence[int]] | None = None,
        gap_tokens: int = 0,
    ) -> None:
        self.reasons: dict[int, Reason] = {}
        self.taken_tokens, self.taken_mass = 0, 0.0
        self._tokens, self._documents, self._mass = tokens, documents, mass
        self.room, self._rooms = room, list(rooms)
        self._needs, self._gap_tokens = needs, gap_tokens
        self._started: set[int] = set()  # documents of which something was taken

    def room_for(self, unit: int) -> int:
        """Tokens that are left in the document of a unit; negative where required units exceed them."""
        return min(self.room - self.taken_tokens, self._rooms[self._documents[unit]])

    def take(self, unit: int, reason: Reason, tokens: int | None = None) -> None:
        """Take a unit, or a part of it that is `tokens` long, whether or not there is room."""
        length = (self._tokens[unit] if tokens is None else tokens) + self._gaps(unit)
        self.reasons[unit] = reason
        self._started.add(self._documents[unit])
        self.taken_tokens += length
        self.taken_mass += self._mass[unit]
        self._rooms[self._documents[unit]] -= length

    def missing(self, unit: int, *, required: bool = False) -> list[int]:
        """What a unit needs and what is not taken yet."""
        needed = self._needs(unit, required) if self._needs else ()
        return [other for other in needed if other not in self.reasons]

    def take_if_it_fits(self, unit: int, reason: Reason, tokens: int | None = None) -> bool:
        """Take a unit, or a part of `tokens`, and what it needs, if there is room; whether it is taken now."""
        if unit in self.reasons:
            return True
        length = self._tokens[unit] if tokens is None else tokens
        for required in (False, True):
            missing = self.missing(unit, required=required)
            if length + self._gaps(unit) + sum(self._tokens[other] for other in missing) <= self.room_for(unit):
                self.take(unit, reason, tokens)
                for other in missing:
                    self.take(other, "structure")
                return True
        return False

    def take_needs(self, units: Iterable[int]) -> None:
        """Take what units that are taken need, as far as it fits."""
        for unit in list(units):
            for other in self.missing(unit):
                self.take_if_it_fits(other, "structure")

    def _gaps(self, unit: int) -> int:
        """Tokens of the marks that a unit adds: none where it begins its document's text or joins a taken unit."""
        document = self._documents[unit]
        if not self._gap_tokens or document not in self._started:
            return 0
        joins = sum(other in self.reasons and self._documents[other] == document for other in (unit - 1, unit + 1))
        return self._gap_tokens * (1 - joins)


class _Selection:
    """Selects the units of one reading for one budget."""

    def __init__(self, reading: ScoredDocuments, config: CompressionConfig, count: Counter) -> None:
        assert reading.scores is not None
        self.reading, self.config, self.count = reading, config, count
        self.texts = [document.text for document in reading.documents]
        firsts = accumulate((len(own) for own in reading.units), initial=0)
        self.own = [range(first, first + len(own)) for first, own in zip(firsts, reading.units, strict=False)]
        self.document = [d for d, own in enumerate(self.own) for _ in own]
        self.span = [span for own in reading.units for span in own]
        self.tokens = [max(1, count(self._unit_text(i))) for i in range(len(self.span))]
        self.ellipsis = "" if config.ellipsis is None and config.unit == "token" else config.ellipsis
        self.gap_tokens = count(f"a{MARK}b") - count("a b") if self.ellipsis is None else 0
        self.structures = reading.structures or [Structure.plain(own) for own in reading.units]
        paths = reading.paths
        stands_for = self._repeats(reading.scores, paths)
        self.scores = _once_each(reading.scores, stands_for)
        self.importance = _once_each(reading.importance, stands_for)
        scored = self.scores.masked_fill(~self._may_be_kept(paths), -torch.inf)
        self.order = [i for i in scored.argsort(descending=True, stable=True).tolist() if scored[i] != -torch.inf]
        self.mass = self._shares(scored)
        self.protected = _moved(protected(self.texts, reading.units, config), stands_for)
        self.held = self.protected | floors(self.own, self.order, self.protected, config, self._tokens_of)

    def within(self, budget: int) -> list[SelectedText]:
        """Kept text per document, together at most `budget` tokens long, or the best unit alone.

        Raises:
            BudgetTooSmallError: what is held does not fit.
        """
        self._check(budget)
        kept = self._fitting(budget)
        best = self._best_left_out(kept)
        return kept if best is None else self._alone(best, budget)

    def _fitting(self, budget: int) -> list[SelectedText]:
        cap = min(self.config.document_max_tokens or budget, budget)
        room, rooms = budget, [cap] * len(self.own)
        while True:
            kept = self._filled(room, rooms)
            tokens = [self.count(one.text) if one.text else 0 for one in kept]
            excess, over = max(sum(tokens) - budget, 0), [max(own - cap, 0) for own in tokens]
            if not excess and not any(over):
                return kept
            # what joins the kept units costs tokens too; units cost at least one and what is held fits, so this ends
            room -= excess
            rooms = [own - beyond for own, beyond in zip(rooms, over, strict=True)]

    def _check(self, budget: int) -> None:
        names = [f"{doc.title!r}" if doc.title else f"document {d + 1}" for d, doc in enumerate(self.reading.documents)]
        floor = f"document_min_tokens={self.config.document_min_tokens}"
        beside = f"{floor} beside {self.config.held_by}" if self.protected else floor
        for held, what in ((self.protected, self.config.held_by), (self.held, beside)):
            needed = [self._tokens_of(d, [i for i in own if i in held]) for d, own in enumerate(self.own)]
            check_fits(needed, names, self.config, budget, what)

    def _filled(self, room: int, rooms: Sequence[int]) -> list[SelectedText]:
        taking = self._tracker(room, rooms)
        for unit, reason in self.held.items():
            taking.take(unit, reason)
        taking.take_needs(self.held)
        cut: dict[int, Span] = {}
        for unit in self.order:
            why = taking.reasons.get(unit)
            if why is None and not self._is_enough(unit, taking) and self._take(unit, taking, cut):
                why = taking.reasons[unit]
            if why not in (None, "context", "cut", "structure"):
                self._take_context(unit, taking)
        if self._cuts and not taking.reasons:
            any(self._cut(unit, taking, cut) for unit in self.order)
        return [self._left_of(d, taking.reasons, cut) for d in range(len(self.own))]

    def _best_left_out(self, kept: Sequence[SelectedText]) -> int | None:
        """The best unit, if it was wanted and nothing that was kept can stand in for it.

        A unit of less than average importance, such as a heading, does not answer the question by itself. Whole
        documents may be far longer than the budget, so any that fits is taken.
        """
        if not self.order or self.held:
            return None
        best = self.order[0]
        threshold = None if self.config.min_tokens else self.config.threshold
        if threshold is not None and float(self.importance[best]) < threshold:
            return None
        taken = [i for own, one in zip(self.own, kept, strict=True) for i in own if one.reasons[i - own.start]]
        average = float(self.scores[self.order].mean())
        enough = self.config.unit == "document" or any(float(self.scores[i]) >= average for i in taken)
        return None if taken and enough else best

    def _alone(self, unit: int, budget: int) -> list[SelectedText]:
        """One unit, cut to fit where units may be cut and its words fit, else whole."""
        room = min(self.config.document_max_tokens or budget, budget)
        taking = self._tracker(room, [room] * len(self.own))
        cut: dict[int, Span] = {}
        while self._cuts and self._cut(unit, taking, cut):
            kept = [self._left_of(d, taking.reasons, cut) for d in range(len(self.own))]
            excess = self.count(kept[self.document[unit]].text) - room
            if excess <= 0:
                return kept
            taking, cut = self._tracker(taking.room - excess, [room] * len(self.own)), {}
        needed: dict[int, Reason] = dict.fromkeys(self._needs(unit, True), "structure")
        return [self._left_of(d, {**needed, unit: "score"}, {}) for d in range(len(self.own))]

    def _tracker(self, room: int, rooms: Sequence[int]) -> BudgetTracker:
        return BudgetTracker(self.tokens, self.document, self.mass, room, rooms, self._needs, self.gap_tokens)

    def _needs(self, unit: int, required: bool) -> list[int]:
        """What a unit needs, by the numbers of all units; nothing with context="none"."""
        if self.config.context == "none":
            return []
        d = self.document[unit]
        first = self.own[d].start
        return [first + other for other in self.structures[d].closure(unit - first, required=required)]

    def _is_enough(self, unit: int, taking: BudgetTracker) -> bool:
        """Whether a unit is not wanted even if there is room."""
        config = self.config
        if taking.taken_tokens < (config.min_tokens or 0):
            return False
        covered = config.coverage is not None and taking.taken_mass >= config.coverage
        return covered or (config.threshold is not None and float(self.importance[unit]) < config.threshold)

    def _take(self, unit: int, taking: BudgetTracker, cut: dict[int, Span]) -> bool:
        """Take a unit, or the best part of it, if it fits."""
        if taking.take_if_it_fits(unit, "score"):
            return True
        enough = max(_MIN_CUT_TOKENS, _MIN_CUT_SHARE * self.tokens[unit])
        return self._cuts and self._room_to_cut(unit, taking) >= enough and self._cut(unit, taking, cut)

    def _room_to_cut(self, unit: int, taking: BudgetTracker) -> int:
        needed = sum(self.tokens[other] for other in taking.missing(unit, required=True))
        return taking.room_for(unit) - needed

    def _cut(self, unit: int, taking: BudgetTracker, cut: dict[int, Span]) -> bool:
        """Take the best run of a unit's words that fits, and put it into `cut`; whether there is one."""
        text = self.texts[self.document[unit]]
        room = self._room_to_cut(unit, taking)
        window = best_window(text, self.span[unit], self._word_scores(unit), self.count, room)
        if window is None or not taking.take_if_it_fits(unit, "cut", self.count(text[slice(*window)])):
            return False
        cut[unit] = window
        return True

    def _take_context(self, unit: int, taking: BudgetTracker) -> None:
        """Take the neighbours of a unit, nearest first; each side ends where one does not fit."""
        config = self.config
        sides = neighbours(unit, self.own[self.document[unit]], config.context_before, config.context_after)
        is_open = [True, True]
        for pair in zip_longest(*sides):
            for s, other in enumerate(pair):
                if other is None or not is_open[s] or self.scores[other] == -torch.inf:
                    continue
                is_open[s] = taking.take_if_it_fits(other, "context")

    @property
    def _cuts(self) -> bool:
        return self.config.cut_units and self.config.unit == "sentence" and self.config.coverage is None

    def _shares(self, scored: Tensor) -> list[float]:
        """Per unit its share of the importance: of the probabilities, or else the softmax of the scores."""
        if not self.order:
            return [0.0] * len(self.span)
        if self.reading.probabilities is None:
            return scored.float().softmax(0).tolist()
        shares = self.importance.double().masked_fill(scored == -torch.inf, 0.0)
        return (shares / shares.sum().clamp(min=1e-30)).tolist()

    def _repeats(self, scores: Tensor, paths: PathMatch | None) -> list[int]:
        """For each unit the one that stands for it."""
        if self.config.unit != "sentence":
            return list(range(len(self.span)))
        at_edge = [i in (0, len(own) - 1) for own in self.own for i in range(len(own))]
        texts = [self._unit_text(i) for i in range(len(self.span))]
        places = paths.places if paths else ()
        contexts = [self._context(d, i) for d, own in enumerate(self.own) for i in range(len(own))]
        return originals(texts, at_edge, places, scores.tolist(), contexts)

    def _context(self, d: int, unit: int) -> tuple[str, ...]:
        """Texts of what a unit needs besides headings."""
        structure = self.structures[d]
        if not structure.needs[unit]:
            return ()
        needed = (other for other in structure.closure(unit) if structure.kinds[other] != "heading")
        return tuple(self.texts[d][slice(*structure.spans[other])] for other in needed)

    def _may_be_kept(self, paths: PathMatch | None) -> Tensor:
        """bool [units]: what may be kept for its score. Single words of punctuation may, they join the others."""
        if self.config.unit == "token":
            return torch.ones(len(self.span), dtype=torch.bool)
        kinds = [kind for structure in self.structures for kind in structure.kinds]
        excluded = paths.excluded if paths else ()
        return torch.tensor(
            [
                kinds[i] in CONTENT and i not in excluded and has_words(self._unit_text(i))
                for i in range(len(self.span))
            ],
            dtype=torch.bool,
        )

    def _unit_text(self, unit: int) -> str:
        return self.texts[self.document[unit]][slice(*self.span[unit])]

    def _left_of(self, d: int, reasons: Mapping[int, Reason], cut: Mapping[int, Span]) -> SelectedText:
        """What is left of a document of which these units are kept."""
        own = self.own[d]
        kept = [i for i in own if i in reasons]
        spans = merged([cut.get(i, self.span[i]) for i in kept], self.reading.units[d], [i - own.start for i in kept])
        # what was cut out of a sentence must not look like one
        is_cut = any(i in cut for i in kept)
        ellipsis = f" {_CUT_MARK} " if is_cut and not self.ellipsis else self.ellipsis
        text = kept_text(self.texts[d], spans, ellipsis, self.structures[d])
        return SelectedText(spans, text, [reasons.get(i) for i in own])

    def _tokens_of(self, d: int, kept: Sequence[int]) -> int:
        """Tokens of a document of which these units are left."""
        return self.count(self._left_of(d, dict.fromkeys(kept, "keep"), {}).text) if kept else 0

    def _word_scores(self, unit: int) -> list[float]:
        document, (start, end) = self.document[unit], self.span[unit]
        passage = next(p for p in self.reading.passages if p.document == document and p.start <= start and end <= p.end)
        scores = []
        for a, b in word_spans(self.texts[document][start:end]):
            first, last = passage.token_range(start + a, start + b)
            scores.append(float(self.reading.tokens[first:last].sum()) if last > first else 0.0)
        return scores


def _once_each(scores: Tensor, stands_for: Sequence[int]) -> Tensor:
    """The scores with -inf for what repeats another unit, which gets the best score of them all."""
    best = scores.clone()
    for i, original in enumerate(stands_for):
        if original != i:
            best[original] = torch.maximum(best[original], scores[i])
            best[i] = -torch.inf
    return best


def _moved(reasons: Mapping[int, Reason], stands_for: Sequence[int]) -> dict[int, Reason]:
    """What is held, with the units that stand for others in their place."""
    moved: dict[int, Reason] = {}
    for unit, reason in reasons.items():
        moved.setdefault(stands_for[unit], reason)
    return moved
