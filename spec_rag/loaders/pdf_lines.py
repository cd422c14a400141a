"""Lines and pages of a PDF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SAME_COLUMN = 60.0  # points between the beginnings of two lines of a column; more than an indented list


@dataclass(frozen=True)
class Line:
    """A line of text. Lengths are in points; y grows upwards.

    Attributes:
        text: a tab is a gap wider than those between words.
        left, right: where its first character begins and its last one ends.
        base: y of the baseline.
        size: height of its characters.
        monospaced, bold: of all of its characters.
        hyphenated: its last word goes on in the next line; the hyphen is not in `text`.
        turns: quarter turns of its text against the page.
    """

    text: str
    left: float
    right: float
    base: float
    size: float
    monospaced: bool = False
    bold: bool = False
    hyphenated: bool = False
    turns: int = 0

    @property
    def is_row(self) -> bool:
        """Whether it is a table row: its parts are separated by wide gaps."""
        return "\t" in self.text

    def has_size_of(self, other: Line) -> bool:
        """Whether two lines are of the same font size; one character may be larger than its neighbours."""
        return abs(self.size - other.size) <= 0.07 * max(self.size, other.size)


@dataclass(frozen=True)
class Page:
    """A page with its lines in reading order."""

    width: float
    height: float
    lines: Sequence[Line]

    def right_edge(self, line: Line) -> float:
        """Where the lines of a column end: six of seven lines that begin near this one are not longer."""
        near = sorted(
            other.right
            for other in self.lines
            if other.turns == line.turns and other.left < line.right and abs(other.left - line.left) < _SAME_COLUMN
        )
        return near[len(near) * 6 // 7] if near else line.right
