"""A verdict on compression for a user's own questions: are the answers as good as those from all documents?

The same questions are answered from all documents and from compressed ones. Two one-sided tests (TOST) at 5 % decide
whether the difference of the shares is within the margin: its 90 % interval (Bonett and Price 2012, for paired
proportions, which also holds where no answer differs) lies inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from spec_rag.errors import ConfigError

_Z_TEST = NormalDist().inv_cdf(0.95)
_Z_POWER = NormalDist().inv_cdf(0.9)  # 80 % for both tests together

Outcome = Literal["equivalent", "different", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """The result of a gate.

    Attributes:
        questions: number of questions.
        full, compressed: shares of right answers, 0 to 1.
        lost, gained: questions that only all documents, or only compressed ones, answer.
        low, high: 90 % interval of compressed minus full.
        margin: greatest difference that counts as equal.
        outcome: "equivalent" (the interval is inside the margin), "different" (it is outside), or "undecided".
        needed: number of questions that would show equivalence with a power of 80 %, if the difference stays as it is;
            None where it is not below the margin.
    """

    questions: int
    full: float
    compressed: float
    lost: int
    gained: int
    low: float
    high: float
    margin: float
    outcome: Outcome
    needed: int | None

    def __str__(self) -> str:
        lines = [
            f"| answers right, {self.questions} questions | share |",
            "|---|---|",
            f"| all documents | {self.full:.3f} |",
            f"| compressed | {self.compressed:.3f} |",
            "",
            f"Difference {self.compressed - self.full:+.3f}, 90 % interval [{self.low:+.3f}, {self.high:+.3f}], "
            f"margin {self.margin:g}; {self.lost} lost, {self.gained} gained.",
        ]
        words = {
            "equivalent": "Equivalent: the interval is inside the margin.",
            "different": "Different: the interval is outside the margin.",
            "undecided": "Undecided: the interval reaches over the margin.",
        }
        lines.append(words[self.outcome])
        if self.needed is None:
            lines.append("The difference is not below the margin: more questions would not show equivalence.")
        elif self.outcome == "undecided":
            lines.append(f"To show equivalence it would take about {self.needed:,} questions (power 80 %).")
        return "\n".join(lines)


def paired_verdict(full: Sequence[bool], compressed: Sequence[bool], margin: float) -> Verdict:
    """Compare the answers to the same questions.

    Args:
        full: whether each answer from all documents is right.
        compressed: the same from compressed documents, in the same order.
        margin: greatest difference of the shares that counts as equal, above 0 and below 1.

    Raises:
        ConfigError: the margin is out of range, there is no question, or the numbers differ.
    """
    if not 0 < margin < 1:
        raise ConfigError(f"margin={margin!r}: must be above 0 and below 1.")
    count = len(full)
    if not count or count != len(compressed):
        raise ConfigError(
            f"full has {count} answers and compressed {len(compressed)}: give the same number, at least 1."
        )
    lost = sum(a and not b for a, b in zip(full, compressed, strict=True))
    gained = sum(b and not a for a, b in zip(full, compressed, strict=True))
    worse, better = (lost + 1) / (count + 2), (gained + 1) / (count + 2)
    centre = better - worse
    spread = better + worse - centre**2
    half = _Z_TEST * math.sqrt(spread / (count + 2))
    low, high = max(centre - half, -1.0), min(centre + half, 1.0)
    outcome: Outcome = "undecided"
    if -margin < low and high < margin:
        outcome = "equivalent"
    elif high < -margin or low > margin:
        outcome = "different"
    room = margin - abs(gained - lost) / count
    needed = math.ceil(spread * (_Z_TEST + _Z_POWER) ** 2 / room**2) if room > 0 else None
    share = sum(full) / count, sum(compressed) / count
    return Verdict(count, *share, lost, gained, low, high, margin, outcome, needed)
