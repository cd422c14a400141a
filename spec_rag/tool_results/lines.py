"""Lines of a tool result, with the line numbers that file viewers put before them set apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBERED = re.compile(r"[ \t]*(\d+)(?:→|\t|[:|] ?|  )")


@dataclass(frozen=True)
class Lines:
    """The lines of a text.

    Attributes:
        text: the text.
        starts: offset of each line, and the length of the text.
        bodies: the lines without their ends and without numbers such as those of `cat -n`.
    """

    text: str
    starts: list[int]
    bodies: list[str]

    @classmethod
    def of(cls, text: str) -> Lines:
        """Split a text at line feeds."""
        parts = text.split("\n")
        if parts[-1] == "" and len(parts) > 1:
            parts.pop()
        starts = [0]
        for part in parts:
            starts.append(min(starts[-1] + len(part) + 1, len(text)))
        return cls(text, starts, _without_numbers([part.removesuffix("\r") for part in parts]))

    def __len__(self) -> int:
        return len(self.bodies)

    def share(self, pattern: re.Pattern[str]) -> float:
        """Share of the lines with text that match a pattern, 0 to 1."""
        filled = [body for body in self.bodies if body.strip()]
        return sum(pattern.match(body) is not None for body in filled) / max(len(filled), 1)


def _without_numbers(parts: list[str]) -> list[str]:
    found = [_NUMBERED.match(part) for part in parts if part.strip()]
    numbers = [int(match.group(1)) for match in found if match is not None]
    if len(numbers) < 3 or len(numbers) < len(found) or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return parts
    return [_NUMBERED.sub("", part, count=1) for part in parts]
