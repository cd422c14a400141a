"""Units within a budget: by score, each that fits, and a part of those that do not."""

from __future__ import annotations

import pytest
import torch

from spec_rag.compression.selection import best_window, select_units
from spec_rag.text.units import kept_text


def part_if_half_fits(tokens: list[int]):  # type: ignore[no-untyped-def]
    return lambda unit, room: room if 2 * room >= tokens[unit] else 0


@pytest.mark.parametrize(
    ("tokens", "budget", "kept"),
    [
        ([10, 10, 5, 5], 20, [0, 1]),
        ([10, 10, 5, 5], 16, [0, 2]),  # the second does not fit: the third goes in its place
        ([30, 10, 5, 5], 12, [1]),
        ([30, 40], 12, []),
    ],
)
def test_whole_units_are_taken_by_falling_score(tokens: list[int], budget: int, kept: list[int]) -> None:
    assert select_units(torch.tensor([4.0, 3.0, 2.0, 1.0][: len(tokens)]), tokens, budget) == kept


def test_a_part_of_a_better_unit_comes_before_lesser_ones() -> None:
    tokens = [10, 10, 5, 5]
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert select_units(scores, tokens, 16, part_of=part_if_half_fits(tokens)) == [0, 1]
    assert select_units(scores, tokens, 14, part_of=part_if_half_fits(tokens)) == [0, 2]


def test_coverage_stops_at_its_share() -> None:
    scores = torch.tensor([0.0, 5.0, 0.0, 4.0])
    assert select_units(scores, [1, 1, 1, 1], 4, coverage=0.7) == [1]
    assert select_units(scores, [1, 1, 1, 1], 4, coverage=0.9) == [1, 3]


@pytest.mark.parametrize(
    ("ellipsis", "expected"),
    [("", "# Huts\nOne is red. It leaks.\n# Boats"), (" … ", "# Huts …\nOne is red. … It leaks. …\n# Boats")],
)
def test_a_dropped_line_break_leaves_one(ellipsis: str, expected: str) -> None:
    text = "# Huts\n\nAll are old. One is red. Two stand. It leaks.\n\n# Gulls\n\n# Boats"
    pieces = ("# Huts", "One is red.", "It leaks.", "# Boats")
    spans = [(text.index(piece), text.index(piece) + len(piece)) for piece in pieces]
    assert kept_text(text, spans, ellipsis) == expected


def test_the_best_window_is_the_run_of_words_with_most_importance() -> None:
    text = "one two three four five six"
    window = best_window(text, (0, len(text)), [0, 0, 5, 4, 0, 0], lambda piece: len(piece.split()), 3)
    assert window is not None
    assert "three four" in text[slice(*window)]
    assert len(text[slice(*window)].split()) == 3
