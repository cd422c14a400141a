"""The structure of a text as data, and the builder that the readers of the formats fill."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from spec_rag.text.sentences import Span, cut_long, line_span, split_sentences

Kind = Literal[
    "text", "heading", "lead", "header", "rule", "row", "key", "field", "code", "fence", "speaker", "question", "mark"
]
"""What a unit is. "mark" is punctuation or a phrase of politeness; "lead" introduces a list; "key" opens a record."""

CONTENT: frozenset[Kind] = frozenset(("text", "row", "field", "code"))
"""The kinds that may answer a question. The others are kept only with a unit that needs them."""

_MAX_HEADING_CHARS = 200
_GAP_MARK = "[...]"
_PLEASANTRY = re.compile(
    r"(?:(?:many )?thanks?(?: you)?(?: (?:so|very) much)?(?: (?:for|to) [\w ]{1,30})?|you(?:['’]| a)re welcome"
    r"|(?:hi|hello|dear|hey|good (?:morning|afternoon|evening|day)|goodbye|bye|welcome)(?:,? [\w ]{1,24})?"
    r"|(?:kind|best|warm) regards|regards|cheers|sincerely|yours \w+|see you(?: [\w ]{1,20})?"
    r"|have a (?:nice|good|great) \w+"
    r"|vielen dank|danke(?: schön)?|mit freundlichen grüßen|guten (?:tag|morgen)|merci(?: beaucoup)?|bonjour|gracias"
    r")[\s.,!]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Record:
    """A part of a record, table or section that has siblings of the same kind.

    Attributes:
        parent: index of the record around it, or -1.
        names: texts that identify it among its siblings, such as a key or the cells of a row.
    """

    parent: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """The units of a text.

    Attributes:
        spans: half-open character ranges, ascending.
        kinds: one per unit.
        needs: per unit, the units that must be kept with it.
        optional: units that are left out of another's needs where they do not fit.
        records: the records, each after its parent.
        record_of: per unit, index of its record, or -1.
        is_json: whether kept parts must be marked as an excerpt.
        parents: the parent heading of each heading that has one.
    """

    spans: Sequence[Span]
    kinds: Sequence[Kind]
    needs: Sequence[Sequence[int]]
    optional: frozenset[int] = frozenset()
    records: Sequence[Record] = ()
    record_of: Sequence[int] = ()
    is_json: bool = False
    parents: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def plain(cls, spans: Sequence[Span]) -> Structure:
        """Units without structure."""
        return cls(spans, ["text"] * len(spans), [()] * len(spans), record_of=[-1] * len(spans))

    @cached_property
    def is_plain(self) -> bool:
        """Whether no unit needs another."""
        return not any(self.needs)

    @cached_property
    def edges(self) -> tuple[dict[int, Kind], dict[int, Kind]]:
        """The kinds of the units by their starts and by their ends."""
        starts = {start: kind for (start, _), kind in zip(self.spans, self.kinds, strict=True)}
        return starts, {end: kind for (_, end), kind in zip(self.spans, self.kinds, strict=True)}

    def closure(self, unit: int, *, required: bool = False) -> list[int]:
        """All units that a unit needs, directly or through others, ascending and without the unit itself.

        Args:
            unit: index of the unit.
            required: leave out the optional ones, and what only they need.
        """
        found: set[int] = set()
        waiting = list(self.needs[unit])
        while waiting:
            other = waiting.pop()
            if other not in found and other != unit and not (required and other in self.optional):
                found.add(other)
                waiting += self.needs[other]
        return sorted(found)

    @cached_property
    def _nearest_headings(self) -> list[int | None]:
        """Per unit, the last heading before it."""
        found: list[int | None] = []
        last: int | None = None
        for unit, kind in enumerate(self.kinds):
            found.append(last)
            last = unit if kind == "heading" else last
        return found

    def section_path(self, unit: int) -> list[int]:
        """The headings above a unit, outermost first, without the unit itself."""
        heading = self.parents.get(unit) if self.kinds[unit] == "heading" else self._nearest_headings[unit]
        path: list[int] = []
        while heading is not None:
            path.append(heading)
            heading = self.parents.get(heading)
        return path[::-1]

    def shown_text(self, text: str, unit: int) -> str:
        """The text of a unit, behind the headings, keys and other units that it needs."""
        shown = text[slice(*self.spans[unit])]
        if not self.needs[unit]:
            return shown
        needed = [other for other in self.closure(unit) if self.kinds[other] not in ("fence", "rule", "mark")]
        return "\n".join([*(text[slice(*self.spans[other])] for other in needed), shown])


@dataclass
class Builder:
    """Collects the units of a text in reading order.

    Args:
        text: the text.
        language: ISO 639 code, for the splitting of sentences.
    """

    text: str
    language: str
    spans: list[Span] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    needs: list[list[int]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    record_of: list[int] = field(default_factory=list)
    headings: list[tuple[int, int, int]] = field(default_factory=list)  # level, unit and record of the open headings
    is_json: bool = False
    parents: dict[int, int] = field(default_factory=dict)

    @property
    def context(self) -> list[int]:
        """The nearest heading."""
        return [self.headings[-1][1]] if self.headings else []

    @property
    def section(self) -> int:
        """The record of the nearest heading, or -1."""
        return self.headings[-1][2] if self.headings else -1

    def __len__(self) -> int:
        return len(self.spans)

    def add(self, start: int, end: int, kind: Kind, needs: Iterable[int] = (), record: int = -1) -> range:
        """Add a line or another piece with its indentation, cut if it is overlong; the new units, none if blank."""
        span = line_span(self.text, start, end)
        return self._add(cut_long(self.text, span) if span else [], kind, needs, record)

    def add_sentences(
        self, start: int, end: int, needs: Iterable[int] = (), kind: Kind = "text", record: int = -1
    ) -> range:
        """Add the sentences of a block; the new units."""
        return self._add(split_sentences(self.text, start, end, self.language), kind, needs, record)

    def _add(self, spans: Sequence[Span], kind: Kind, needs: Iterable[int], record: int) -> range:
        first, needs = len(self), list(needs)
        for start, end in spans:
            start, end = self._without_marks(start, end)
            piece = self.text[start:end]
            is_mark = kind in CONTENT and (
                not any(map(str.isalnum, piece))
                or (kind == "text" and len(piece) < 60 and _PLEASANTRY.fullmatch(piece.strip()) is not None)
            )
            self.spans.append((start, end))
            self.kinds.append("mark" if is_mark else kind)
            self.needs.append(list(needs))
            self.record_of.append(self.section if record < 0 else record)
        return range(first, len(self))

    def _without_marks(self, start: int, end: int) -> Span:
        """The span without the marks of an earlier compression at its ends."""
        text = self.text
        while text.startswith(_GAP_MARK, start) and start + len(_GAP_MARK) < end:
            start += len(_GAP_MARK)
            start += len(text[start:end]) - len(text[start:end].lstrip())
        while text.endswith(_GAP_MARK, start, end) and end - len(_GAP_MARK) > start:
            end = start + len(text[start : end - len(_GAP_MARK)].rstrip())
        return start, end

    def add_record(self, parent: int, *names: str) -> int:
        """Add a record, in the current section if `parent` is -1; its index."""
        self.records.append(Record(self.section if parent < 0 else parent, names))
        return len(self.records) - 1

    def name_record(self, record: int, *names: str) -> None:
        """Replace the names of a record."""
        self.records[record] = Record(self.records[record].parent, names)

    def add_heading(self, start: int, end: int, level: int) -> None:
        """Add a heading. It needs its parent; `build` removes this need where the heading's text is unique."""
        while self.headings and self.headings[-1][0] >= level:
            self.headings.pop()
        is_short = end - start <= _MAX_HEADING_CHARS
        units = self.add(start, end, "heading" if is_short else "text", self.context)
        if is_short and units:
            if self.headings:
                self.parents[units[0]] = self.headings[-1][1]
            self.headings.append((level, units[0], self.add_record(-1, self.text[start:end])))

    def last_lead(self) -> int | None:
        """The last unit, if it is a text that ends with a colon."""
        if self.spans and self.kinds[-1] in ("text", "lead"):
            start, end = self.spans[-1]
            if self.text[end - 1] in ":：" and end - start <= _MAX_HEADING_CHARS:
                return len(self) - 1
        return None

    def lead_needs(self) -> list[int]:
        """What a list or table needs: the sentence that introduces it, else the nearest heading."""
        lead = self.last_lead()
        if lead is None:
            return self.context
        self.kinds[lead] = "lead"
        return [lead]

    def build(self) -> Structure:
        """The structure."""
        self._resolve_headings()
        return Structure(
            self.spans,
            self.kinds,
            [tuple(needs) for needs in self.needs],
            frozenset(self._sole_headings()),
            self.records,
            self.record_of,
            self.is_json,
            self.parents,
        )

    def _resolve_headings(self) -> None:
        """Keep the parent of a heading only where its text repeats. Without any content, everything becomes text."""
        headings = [i for i, kind in enumerate(self.kinds) if kind == "heading"]
        texts = [" ".join(self.text[slice(*self.spans[i])].casefold().split()) for i in headings]
        count = Counter(texts)
        for i, text in zip(headings, texts, strict=True):
            if count[text] == 1:
                self.needs[i] = []
        if not CONTENT.intersection(self.kinds):
            self.kinds = ["mark" if kind == "mark" else "text" for kind in self.kinds]

    def _sole_headings(self) -> list[int]:
        """The heading of the text if it has only one: no other can be mistaken for it."""
        headings = [i for i, kind in enumerate(self.kinds) if kind == "heading"]
        return headings if len(headings) == 1 else []
