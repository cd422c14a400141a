"""Units within a budget: by score, each that fits, and a part of those that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spec_rag.compression.passages import Passage
from spec_rag.compression.selection import (
    Reading,
    best_window,
    longest_prefix,
    originals,
    select,
    select_units,
    touched,
)
from spec_rag.config import CompressionConfig
from spec_rag.text.documents import Document
from spec_rag.text.units import kept_text, unit_spans, word_spans


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


def test_a_unit_that_must_not_be_taken_never_is() -> None:
    assert select_units(torch.tensor([1.0, -torch.inf, 0.0]), [1, 1, 1], 9) == [0, 2]
    assert select_units(torch.tensor([]), [], 9) == []


def test_coverage_does_not_stop_below_the_least_that_must_be_left() -> None:
    scores = torch.tensor([0.0, 5.0, 0.0, 4.0])
    assert select_units(scores, [5, 5, 5, 5], 20, coverage=0.5) == [1]
    assert select_units(scores, [5, 5, 5, 5], 20, coverage=0.5, at_least=10) == [1, 3]
    assert select_units(scores, [5, 5, 5, 5], 12, coverage=0.5, at_least=20) == [1, 3]


LONG = "The lens was carried up the mountain by a mule"


def test_the_first_of_equal_units_stands_for_all_of_them() -> None:
    texts = ["A mule carried the lens.", "It is white.", "A  MULE carried\nthe lens.", "A mule carried the lens."]
    assert originals(texts, [False] * 4) == [0, 1, 0, 0]


def test_short_texts_stand_for_themselves_however_often_they_come() -> None:
    assert originals(["}", "It is white.", "}", "It is white."], [True] * 4) == [0, 1, 2, 3]


def test_a_piece_at_the_edge_of_a_document_is_stood_for_by_the_whole_sentence() -> None:
    piece = "carried up the mountain by"
    assert originals([LONG, piece], [False, True]) == [0, 0]
    assert originals([LONG, piece], [False, False]) == [0, 1], "in the middle of a document nothing was cut"
    assert originals([LONG, "carried up the mount"], [False, True]) == [0, 1], "whole words only"


def test_a_piece_of_a_piece_is_stood_for_by_the_whole() -> None:
    pieces = ["carried up the mountain", "was carried up the mountain", "lens was carried up the mountain by"]
    for texts in ([*pieces, LONG], [LONG, *pieces[::-1]]):
        whole = texts.index(LONG)
        assert originals(texts, [text != LONG for text in texts]) == [whole] * 4


def test_units_are_touched_by_spans_that_share_a_character_with_them() -> None:
    units = [(0, 4), (5, 9), (10, 14), (15, 20)]
    assert touched(units, [(0, 4), (13, 16)]) == [True, False, True, True]
    assert touched(units, [(4, 5)]) == [False] * 4
    assert touched(units, []) == [False] * 4


@pytest.mark.parametrize(("budget", "expected"), [(0, None), (1, "one"), (3, "one two three"), (9, "one two three")])
def test_the_longest_beginning_that_fits_ends_at_a_word(budget: int, expected: str | None) -> None:
    text = "zero one two three four"
    found = longest_prefix(text, (5, 18), lambda piece: len(piece.split()), budget)
    assert (None if found is None else text[slice(*found)]) == expected


def test_no_window_fits_where_no_word_does() -> None:
    assert best_window("one two", (0, 7), [1.0, 1.0], len, 2) is None


def reading_of(texts: list[str], scores: list[float]) -> Reading:
    """What a draft would have read: each word a token, important where it is written in capitals."""
    units = [unit_spans(text, "sentence") for text in texts]
    passages, tokens, first = [], [], 0
    for d, text in enumerate(texts):
        words = word_spans(text)
        passages.append(Passage(d, 0, len(text), list(range(len(words))), words, first))
        tokens += [1.0 if text[a:b].isupper() else 0.1 for a, b in words]
        first += len(words)
    documents = [Document(text) for text in texts]
    return Reading(documents, "q", "draft", units, passages, torch.tensor(scores), torch.tensor(tokens), 0.0)


def words(text: str) -> int:
    return len(text.split())


def kept(reading: Reading, budget: int, **settings: Any) -> list[str]:
    return [one.text for one in select(reading, CompressionConfig(**settings), words, budget)]


TEXTS = ["The baker is called ODALYS FENN of Tarn. She sleeps.", "It is white. The baker rises early."]
SCORES = [4.0, 1.0, 0.5, 3.0]


def test_a_sentence_is_kept_whole_or_not_at_all() -> None:
    reading = reading_of(TEXTS, SCORES)
    assert kept(reading, 8) == ["The baker is called ODALYS FENN of Tarn.", ""]
    assert kept(reading, 7) == ["She sleeps.", "The baker rises early."]
    assert kept(reading, 1) == ["", ""]


def test_a_cut_is_asked_for_and_marked() -> None:
    long = "In the village by the lake the baker is called ODALYS FENN of Tarn. She sleeps."
    reading = reading_of([long], [4.0, 1.0])
    assert kept(reading, 11) == ["She sleeps."]
    (cut,) = kept(reading, 11, cut_units=True)
    assert "ODALYS FENN" in cut
    assert cut.startswith("… ")
    assert cut.endswith(" …")
    assert words(cut) <= 11
    (own,) = kept(reading, 11, cut_units=True, ellipsis=" [...] ")
    assert own.startswith("[...] ")
    assert "…" not in own


def test_nothing_is_cut_where_everything_fits() -> None:
    assert kept(reading_of(TEXTS, SCORES), 20, cut_units=True) == TEXTS


def test_a_repeated_sentence_is_paid_for_once_and_its_first_place_is_kept() -> None:
    again = "The baker is called Odalys Fenn of Tarn."
    texts = [f"{again} She sleeps.", f"{again} It is white.", again]
    reading = reading_of(texts, [1.0, 0.0, 4.0, 2.0, 3.0])
    assert kept(reading, 11) == [again, "It is white.", ""]
    assert kept(reading, 13) == [f"{again} She sleeps.", "It is white.", ""]
    assert kept(reading, 100) == [f"{again} She sleeps.", "It is white.", ""]


def test_overlapping_chunks_do_not_pay_twice_for_the_sentence_that_they_share_in_part() -> None:
    texts = [f"It is white. {LONG}.", "carried up the mountain by a mule. It was called Saffron."]
    reading = reading_of(texts, [0.0, 2.0, 4.0, 3.0])
    assert kept(reading, 14) == [f"{LONG}.", "It was called Saffron."]


def test_what_joins_the_kept_units_is_paid_for_too() -> None:
    reading = reading_of(
        ["Huts are red. Boats are blue. Gulls are white. Roads are grey.", "Cats are black. Snow is cold."],
        [1.0, 0.0, 2.0, 0.0, 0.0, 3.0],
    )
    for budget in range(1, 20):
        found = [one for one in kept(reading, budget, ellipsis=" [...] ") if one]
        assert sum(words(text) for text in found) <= budget
