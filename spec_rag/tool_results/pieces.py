"""Pieces of a text that may be left out, the selection of the best, and marks where pieces are missing."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Style = Literal["line", "body", "item", "text", "string"]
_BETWEEN = re.compile(r"[\s,]*")
MARK_CHARS = 70  # of a typical mark
_MARK = "[… {what} omitted{place}: {kind}{handle}]"
ALWAYS, NEVER, LEAST = float("inf"), float("-inf"), -1e9


@dataclass(frozen=True)
class Piece:
    """A part of a text that may be left out.

    Attributes:
        start, end: character range in the text.
        style: how its mark is written: on a line of its own, as the body of a definition, as an item or value of
            JSON, in running text, or inside a JSON string.
        what: what it is, in the plural.
        parent: index of the piece that contains it, or -1.
        bonus: added to its score; NEVER leaves it out in any case, ALWAYS keeps it.
        note: replaces the mark, such as how often the line before is repeated.
        indent: white space before its mark.
    """

    start: int
    end: int
    style: Style = "line"
    what: str = "lines"
    parent: int = -1
    bonus: float = 0.0
    note: str | None = None
    indent: str = ""


@dataclass(frozen=True)
class Omission:
    """A range that is left out: characters [start, end), lines from `first_line` to `last_line`, counted from 1."""

    start: int
    end: int
    what: str
    first_line: int
    last_line: int


@dataclass
class Structure:
    """A text as pieces, ascending by start, parents before their children. What is in no piece is always kept.

    Attributes:
        comment: what a mark begins with on a line of its own, such as "# ".
    """

    text: str
    kind: str
    pieces: list[Piece] = field(default_factory=list)
    comment: str = ""

    def selected(self, scores: Sequence[float], budget: int) -> list[bool]:
        """Which pieces stay within a budget of characters, marks included; at least one where there are any.

        Args:
            scores: of the pieces; a piece's score is at least that of its children.
            budget: characters of the whole text.
        """
        chooser = _Chooser(self)
        scores = [score + piece.bonus for score, piece in zip(scores, self.pieces, strict=True)]
        left = budget - chooser.fixed
        order = sorted((i for i, score in enumerate(scores) if score != NEVER), key=lambda i: (-scores[i], i))
        for i in order:
            if not chooser.is_open(i):
                continue
            cost = chooser.cost(i)
            if cost <= left or scores[i] == ALWAYS or not chooser.any_kept:
                chooser.keep(i)
                left -= cost
        return chooser.without_short_gaps()

    def rendered(self, kept: Sequence[bool], handle: str | None) -> tuple[str, list[Omission]]:
        """The text with a mark for each run of omitted pieces.

        Args:
            kept: of each piece.
            handle: written into the marks; None leaves it out.
        """
        breaks = [match.start() for match in re.finditer("\n", self.text)]
        parts, place, omissions = [], 0, []
        for run in self._runs(kept):
            start, end = self.pieces[run[0]].start, self.pieces[run[-1]].end
            lines = bisect_left(breaks, start) + 1, bisect_left(breaks, max(end - 1, start)) + 1
            omissions.append(Omission(start, end, self.pieces[run[0]].what, *lines))
            parts += [self.text[place:start], self._mark(run, lines, handle)]
            place = end
        return "".join([*parts, self.text[place:]]), omissions

    def _runs(self, kept: Sequence[bool]) -> list[list[int]]:
        """Runs of adjacent omitted pieces whose parents are kept."""
        runs: list[list[int]] = []
        joined = _joined(self)
        for i, piece in enumerate(self.pieces):
            if kept[i] or not _visible(self.pieces, kept, i):
                continue
            before = joined[i]
            if runs and before == runs[-1][-1] and piece.note is None and self.pieces[before].note is None:
                runs[-1].append(i)
            else:
                runs.append([i])
        return runs

    def _mark(self, run: Sequence[int], lines: tuple[int, int], handle: str | None) -> str:
        first, last = self.pieces[run[0]], self.pieces[run[-1]]
        if first.style in ("line", "body"):
            count = lines[1] - lines[0] + 1
            place = f" ({lines[0]}-{lines[1]})" if count > 1 else f" ({lines[0]})"
        else:
            count, place = (len(run), "") if first.style == "item" else (last.end - first.start, "")
            if "\n" in self.text and lines[1] > lines[0]:
                place = f" (lines {lines[0]}-{lines[1]})"
        what = f"{count:,} {first.what if count != 1 else first.what.removesuffix('s')}"
        mark = first.note or _MARK.format(
            what=what, place=place, kind=self.kind, handle=f"; handle {handle}" if handle else ""
        )
        if first.style == "item":
            return json.dumps(mark, ensure_ascii=False)
        if first.style == "string":
            return f" {mark} "
        if first.style == "text":
            return f"{mark} " if self.text[last.end - 1 : last.end].isspace() or last.end < len(self.text) else mark
        end = "\n" if self.text[last.end - 1 : last.end] == "\n" else ""
        return f"{first.indent}{'...  ' if first.style == 'body' else ''}{self.comment}{mark}{end}"


class _Chooser:
    """Keeps pieces one by one, and counts what they and the marks between them cost."""

    def __init__(self, structure: Structure) -> None:
        pieces = structure.pieces
        self._structure = structure
        self._kept = [False] * len(pieces)
        self._before = _joined(structure)
        self._after = [-1] * len(pieces)
        inner = [0] * len(pieces)
        self._child_runs = [0] * len(pieces)
        runs = 0
        for i, piece in enumerate(pieces):
            before = self._before[i]
            if before >= 0:
                self._after[before] = i
            if piece.parent >= 0:
                inner[piece.parent] += piece.end - piece.start
                self._child_runs[piece.parent] += before < 0
            else:
                runs += before < 0
        self._own = [piece.end - piece.start - inside for piece, inside in zip(pieces, inner, strict=True)]
        outer = sum(piece.end - piece.start for piece in pieces if piece.parent < 0)
        self.fixed = len(structure.text) - outer + runs * MARK_CHARS
        self.any_kept = False

    def is_open(self, i: int) -> bool:
        """Whether a piece's parent is kept."""
        parent = self._structure.pieces[i].parent
        return parent < 0 or self._kept[parent]

    def cost(self, i: int) -> int:
        """Characters that the text grows by if a piece is kept."""
        sides = sum(j >= 0 and not self._kept[j] for j in (self._before[i], self._after[i]))
        return self._own[i] + MARK_CHARS * (self._child_runs[i] + sides - 1)

    def keep(self, i: int) -> None:
        """Keep a piece."""
        self._kept[i] = self.any_kept = True

    def without_short_gaps(self) -> list[bool]:
        """Which pieces are kept; gaps that are no longer than their mark are kept, too."""
        pieces = self._structure.pieces
        for run in self._structure._runs(self._kept):
            is_short = pieces[run[-1]].end - pieces[run[0]].start <= MARK_CHARS
            if is_short and all(pieces[i].bonus != NEVER for i in run):
                for i in run:
                    self._kept[i] = True
        for i, piece in enumerate(pieces):  # children of short pieces
            if piece.parent >= 0 and self._kept[piece.parent] and piece.end - piece.start <= MARK_CHARS:
                parent = pieces[piece.parent]
                self._kept[i] = self._kept[i] or parent.end - parent.start <= MARK_CHARS
        return self._kept


def _joined(structure: Structure) -> list[int]:
    """For each piece the sibling before it where nothing but white space and commas is between, else -1."""
    latest: dict[int, int] = {}
    found = []
    for i, piece in enumerate(structure.pieces):
        before = latest.get(piece.parent, -1)
        gap = structure.text[structure.pieces[before].end : piece.start] if before >= 0 else ""
        alike = before >= 0 and structure.pieces[before].style == piece.style and piece.style != "body"
        found.append(before if alike and _BETWEEN.fullmatch(gap) else -1)
        latest[piece.parent] = i
    return found


def _visible(pieces: Sequence[Piece], kept: Sequence[bool], i: int) -> bool:
    parent = pieces[i].parent
    while parent >= 0:
        if not kept[parent]:
            return False
        parent = pieces[parent].parent
    return True


def piece_scores(pieces: Sequence[Piece], units: Sequence[tuple[int, int, float]]) -> list[float]:
    """The best score of the units that each piece overlaps; LEAST where there is none.

    Args:
        pieces: of a text.
        units: start, end and score of the scored units, ascending.
    """
    ends = [end for _, end, _ in units]
    starts = [start for start, _, _ in units]
    found = []
    for piece in pieces:
        inside = units[bisect_right(ends, piece.start) : bisect_left(starts, piece.end)]
        found.append(max((score for _, _, score in inside), default=LEAST))
    return found
