"""Words of a text, and how many of a question's words each text shares."""

from __future__ import annotations

import pytest

from spec_rag.text.words import is_unspaced, word_overlap, words


def test_words_are_folded_and_in_reading_order() -> None:
    assert words("The Baker's  hut, No. 7: STRASSE straße") == [
        "the",
        "baker",
        "s",
        "hut",
        "no",
        "7",
        "strasse",
        "strasse",
    ]
    assert words(" .,;! ") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("欧达丽制作面包", ["欧达", "达丽", "丽制", "制作", "作面", "面包"]),
        ("共7扇", ["共", "7", "扇"]),
        ("ポート of サン", ["ポー", "ート", "of", "サン"]),
        ("ขนมปัง", ["ขน", "นม", "มป", "ปั", "ัง"]),
        ("한국 사람", ["한국", "사람"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
    ],
)
def test_scripts_without_spaces_are_cut_into_pairs(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_a_text_that_shares_more_telling_words_scores_higher() -> None:
    scores = word_overlap("who keeps the red hut", ["the hut is red", "the sea is wide", "a red boat"])
    assert scores[0] > scores[2] > 0
    assert scores[0] > scores[1]
    assert word_overlap("who", ["", "  "]) == [0.0, 0.0]
    assert word_overlap("?!", ["a hut"]) == [0.0]
    assert word_overlap("谁做面包", ["面包很好", "海很宽"])[0] > 0


def test_unspaced_scripts_are_told_apart() -> None:
    assert is_unspaced("Tarn 面包")
    assert not is_unspaced("Größe, 한국")
