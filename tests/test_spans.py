"""Ranges of a text that has itself been put together from ranges of another."""

from __future__ import annotations

import random

import pytest

from spec_rag.text.spans import original_spans
from spec_rag.text.units import kept_text

TEXT = "One is red. Two is blue.\nThree is green. Four is grey. Five is white."
SPANS = [(0, 11), (25, 40), (54, 68)]


@pytest.mark.parametrize("ellipsis", ["", " … ", " [...] ", "…"])
def test_ranges_of_a_compressed_text_are_found_in_the_first_one(ellipsis: str) -> None:
    compressed = kept_text(TEXT, SPANS, ellipsis)
    start = compressed.index("Three is green.")
    assert original_spans(compressed, SPANS, [(start, start + 15)], ellipsis) == [(25, 40)]
    assert original_spans(compressed, SPANS, [(0, len(compressed))], ellipsis) == SPANS


def test_the_usual_ellipses_are_recognised_without_being_told() -> None:
    """As where a unit was cut, which is marked whatever the setting says."""
    compressed = kept_text(TEXT, SPANS, " … ")
    assert original_spans(compressed, SPANS, [(0, len(compressed))]) == SPANS


def test_a_range_within_a_piece_stays_within_it() -> None:
    compressed = kept_text(TEXT, SPANS, "")
    at = compressed.index("green")
    assert original_spans(compressed, SPANS, [(at, at + 5)]) == [(TEXT.index("green"), TEXT.index("green") + 5)]


def test_spans_of_another_text_describe_nothing() -> None:
    assert original_spans("A window around what was found, put in its place.", SPANS, [(0, 5)]) is None
    assert original_spans(kept_text(TEXT, SPANS, "") + " More.", SPANS, [(0, 5)]) is None
    assert original_spans("", SPANS, [(0, 5)]) is None
    assert original_spans("text", [], [(0, 4)]) is None


def test_compressing_again_and_again_always_leads_back_to_the_first_text() -> None:
    chance = random.Random(0)
    words = [(0, 3), (4, 6), (7, 11), (12, 15), (16, 18), (19, 24), (25, 30), (31, 33), (34, 40)]
    for _ in range(200):
        first = sorted(chance.sample(words, 6))
        once = kept_text(TEXT, first, "")
        at, inside = 0, []
        for start, end in first:
            inside.append((at, at + end - start))
            at += end - start + 1
        second = sorted(chance.sample(inside, 3))
        found = original_spans(once, first, second)
        assert found is not None
        assert [TEXT[a:b] for a, b in found] == [once[a:b] for a, b in second]


def test_a_piece_that_begins_or_ends_with_the_mark_itself_is_found_all_the_same() -> None:
    text = "… One is red. Two is blue. …"
    assert original_spans(text, [(0, 28)], [(0, 28)], " … ") == [(0, 28)]
    cut = kept_text(text, [(0, 13)], " … ")
    assert cut == "… One is red. …"
    assert original_spans(cut, [(0, 13)], [(2, 13)], " … ") == [(2, 13)]


def test_a_range_over_a_gap_is_its_parts_in_both_pieces_and_the_gap_is_in_neither() -> None:
    compressed = kept_text(TEXT, SPANS, " … ")
    at = compressed.index("Three")

    def found(*kept: tuple[int, int]) -> list[tuple[int, int]] | None:
        return original_spans(compressed, SPANS, kept, " … ")

    assert found((4, at + 5)) == [(4, 11), (25, 30)]
    assert found((11, at)) == []
    assert found((10, at + 1), (at + 14, len(compressed))) == [(10, 11), (25, 26), (39, 40), (54, 68)]


def test_a_mark_in_front_of_several_pieces_is_no_part_of_the_first() -> None:
    kept = SPANS[1:]
    for ellipsis in (" … ", " [...] "):
        compressed = kept_text(TEXT, kept, ellipsis)
        assert compressed.startswith(f"{ellipsis.strip()} Three")
        assert original_spans(compressed, kept, [(0, len(compressed))], ellipsis) == kept


def test_spans_of_nothing_describe_nothing() -> None:
    assert original_spans("", [], []) is None
    assert original_spans(" ab", [(0, 0), (5, 7)], [(0, 3)]) is None
    assert original_spans("ab", [(5, 7)], [(0, 2)]) == [(5, 7)]
    assert original_spans("a", [(5, 6)], [(0, 1)]) == [(5, 6)]


def test_a_mark_before_and_behind_is_taken_for_one_only_where_it_stands_by_itself() -> None:
    assert original_spans("… One is red.", [(3, 14)], [(0, 13)], " … ") == [(3, 14)]
    assert original_spans("…  One is red.", [(3, 14)], [(0, 13)], " … ") is None
    assert original_spans("One is red. …", [(3, 14)], [(0, 13)], " … ") == [(3, 14)]
    assert original_spans("One is red.  …", [(3, 14)], [(0, 13)], " … ") is None
    assert original_spans("One is red. xx", [(3, 14)], [(0, 14)], " xx ") == [(3, 14)]
    assert original_spans("One is red.", [(3, 12)], [(0, 9)]) is None
