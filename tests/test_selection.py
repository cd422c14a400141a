"""Units within a budget: by score, each that fits, and a part of those that do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from readings import reading_of, words

from spec_rag.compression.duplicates import originals
from spec_rag.compression.packing import ScoredDocuments, select
from spec_rag.compression.passages import Passage
from spec_rag.compression.unit_cutting import best_window, longest_prefix
from spec_rag.options.compression import CompressionConfig
from spec_rag.text.documents import Document
from spec_rag.text.units import kept_text, touched


def units_kept(scores: list[float], tokens: list[int], budget: int, **settings: Any) -> list[int]:
    """Numbers of the sentences of so many words that are kept."""
    text = " ".join(f"Unit{i} {'word ' * (n - 2)}end{i}." if n > 1 else f"Unit{i}." for i, n in enumerate(tokens))
    found = select(reading_of([text], scores), CompressionConfig(**settings), words, budget) if text else []
    return [i for one in found for i, reason in enumerate(one.reasons) if reason]


@pytest.mark.parametrize(
    ("tokens", "budget", "kept"),
    [
        ([10, 10, 5, 5], 20, [0, 1]),
        ([10, 10, 5, 5], 16, [0, 2]),  # the second does not fit: the third goes in its place
        ([30, 10, 5, 5], 12, [1]),
        ([30, 40], 12, [0]),  # nothing fits: the best one, beyond the budget
        ([30, 10, 5, 5], 9, [0]),  # only units below the average fit: they cannot stand in for it
        ([30], 1, [0]),
    ],
)
def test_whole_units_are_taken_by_falling_score(tokens: list[int], budget: int, kept: list[int]) -> None:
    assert units_kept([4.0, 3.0, 2.0, 1.0][: len(tokens)], tokens, budget) == kept


def test_a_part_of_a_better_unit_comes_before_lesser_ones() -> None:
    tokens, scores = [20, 20, 6, 6], [4.0, 3.0, 2.0, 1.0]
    assert units_kept(scores, tokens, 36, cut_units=True) == [0, 1]
    assert units_kept(scores, tokens, 28, cut_units=True) == [0, 2], "less than half of it is not worth it"


def test_coverage_stops_at_its_share() -> None:
    scores, tokens = [0.0, 5.0, 0.0, 4.0], [2, 2, 2, 2]
    assert units_kept(scores, tokens, 8, coverage=0.7) == [1]
    assert units_kept(scores, tokens, 8, coverage=0.9) == [1, 3]


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


def test_the_best_window_counts_each_word_but_twice() -> None:
    text = "江湖" * 480
    counted = 0

    def count(piece: str) -> int:
        nonlocal counted
        counted += 1
        return len(piece)

    scores = [1.0 if 300 <= i < 340 else 0.0 for i in range(len(text))]
    assert best_window(text, (0, len(text)), scores, count, 40) == (300, 340)
    assert counted <= 2 * len(text)


def test_nothing_is_kept_of_nothing() -> None:
    assert select(reading_of([], []), CompressionConfig(), words, 9) == []
    assert units_kept([], [], 9) == []


def test_coverage_does_not_stop_below_the_least_that_must_be_left() -> None:
    scores, tokens = [0.0, 5.0, 0.0, 4.0], [5, 5, 5, 5]
    assert units_kept(scores, tokens, 20, coverage=0.5) == [1]
    assert units_kept(scores, tokens, 20, coverage=0.5, min_tokens=10) == [1, 3]
    assert units_kept(scores, tokens, 12, coverage=0.5, min_tokens=20) == [1, 3]


LONG = "The lens was carried up the mountain by a mule"


def test_the_first_of_equal_units_stands_for_all_of_them_where_nothing_else_decides() -> None:
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


def kept(reading: ScoredDocuments, budget: int, **settings: Any) -> list[str]:
    return [one.text for one in select(reading, CompressionConfig(**settings), words, budget)]


TEXTS = ["The baker is called ODALYS FENN of Tarn. She sleeps.", "It is white. The baker rises early."]
SCORES = [4.0, 1.0, 0.5, 3.0]


def test_a_sentence_is_kept_whole_or_not_at_all() -> None:
    reading = reading_of(TEXTS, SCORES)
    assert kept(reading, 8) == ["The baker is called ODALYS FENN of Tarn.", ""]
    assert kept(reading, 7) == ["She sleeps.", "The baker rises early."]
    assert kept(reading, 1) == ["The baker is called ODALYS FENN of Tarn.", ""]


def test_a_cut_is_asked_for_and_marked() -> None:
    long = "In the village by the lake the baker is called ODALYS FENN of Tarn. She sleeps."
    reading = reading_of([long], [4.0, 1.0])
    assert kept(reading, 11) == [long.removesuffix(" She sleeps.")], "what is below average does not stand in for it"
    (cut,) = kept(reading, 11, cut_units=True)
    assert "ODALYS FENN" in cut
    assert cut.startswith("… ")
    assert cut.endswith(" …")
    assert words(cut) <= 11
    (own,) = kept(reading, 11, cut_units=True, ellipsis=" [...] ")
    assert own.startswith("[...] ")
    assert "…" not in own


def test_half_of_a_sentence_is_worth_a_cut_and_eight_words_at_least() -> None:
    def unmarked(text: str) -> int:
        return words(text.replace("…", ""))

    texts = [" ".join(f"w{number}x{i}" for i in range(length)) + "." for number, length in enumerate((10, 16, 14))]
    reading = reading_of([" ".join(texts)], [3.0, 2.0, 1.0])
    config = CompressionConfig(cut_units=True)
    assert [select(reading, config, unmarked, budget)[0].reasons[1] for budget in (17, 18)] == [None, "cut"]
    shorter = reading_of([f"{texts[0]} {texts[2]}"], [3.0, 2.0])
    assert [select(shorter, config, unmarked, budget)[0].reasons[1] for budget in (17, 18)] == [None, "cut"]


def test_a_cut_sentence_takes_the_room_of_what_is_left_of_it() -> None:
    long = " ".join(f"word{i}" for i in range(20)) + "."
    reading = reading_of([long, "The baker rises early and the cat sleeps late."], [4.0, 1.0])
    cut, other = kept(reading, 24, cut_units=True, document_max_tokens=15)
    assert 8 <= words(cut) <= 15
    assert other == "The baker rises early and the cat sleeps late."


def sentence(number: int, important: int) -> str:
    """Fourteen words, of which one is important."""
    return " ".join("LENS" if i == important else f"w{number}x{i:02}" for i in range(14)) + "."


@pytest.mark.parametrize("unit", range(4))
def test_a_sentence_is_cut_by_the_importance_of_its_own_words_in_its_own_passage(unit: int) -> None:
    texts = [f"{sentence(0, 13)} {sentence(1, 13)}", f"{sentence(2, 0)} {sentence(3, 0)}"]
    whole = reading_of(texts, [float(i == unit) for i in range(4)])
    parts = []
    for one, (first, second) in zip(whole.passages, whole.units, strict=True):
        behind = [(start - second[0], end - second[0]) for start, end in one.offsets[14:]]
        parts.append(Passage(one.document, 0, first[1], one.ids[:14], one.offsets[:14], one.first_token))
        parts.append(Passage(one.document, second[0], one.end, one.ids[14:], behind, one.first_token + 14))
    for reading in (whole, replace(whole, passages=parts)):
        left = kept(reading, 11, cut_units=True)
        assert "LENS" in left[unit // 2]
        assert f"w{unit}x" in left[unit // 2]


def test_documents_that_nobody_read_have_neither_scores_nor_importance() -> None:
    unread = ScoredDocuments.unread([Document("It is white."), Document("")], "q", "draft")
    assert (unread.units, unread.passages, unread.scores, unread.seconds) == ([[], []], [], None, 0.0)
    assert unread.tokens.shape == (0,)


def test_nothing_is_cut_where_everything_fits() -> None:
    assert kept(reading_of(TEXTS, SCORES), 20, cut_units=True) == TEXTS


def test_a_repeated_sentence_is_paid_for_once_and_its_best_place_is_kept() -> None:
    again = "The baker is called Odalys Fenn of Tarn."
    texts = [f"{again} She sleeps.", f"{again} It is white.", again]
    reading = reading_of(texts, [1.0, 0.0, 4.0, 2.0, 3.0])
    assert kept(reading, 11) == ["", f"{again} It is white.", ""]
    assert kept(reading, 13) == ["She sleeps.", f"{again} It is white.", ""]
    assert kept(reading, 100) == ["She sleeps.", f"{again} It is white.", ""]


def test_a_repeated_sentence_has_the_best_of_its_scores() -> None:
    again = "The baker is called Odalys Fenn."
    reading = reading_of([f"{again} It is very white there today.", again], [0.0, 2.0, 9.0])
    assert kept(reading, 6) == ["", again]
    reading = reading_of([again, f"It is very white there today. {again}"], [9.0, 2.0, 0.0])
    assert kept(reading, 6) == [again, ""], "nor does a lesser score of a repeat count"


def test_four_words_are_a_repeat_and_three_are_none() -> None:
    for text, times in (("Snow fell at noon.", 1), ("Snow fell again.", 2)):
        assert sum(one == text for one in kept(reading_of([text, text], [1.0, 1.0]), 100)) == times


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
        assert sum(words(text) for text in found) <= budget or found == ["Cats are black. [...]"] or budget < 4
