"""Where a text may be cut."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from spec_rag.compression.selection import longest_prefix
from spec_rag.text.units import sentence_spans, unit_spans

LONG = "word " * 300


def pieces(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Fenn left at 6 p.m. on Monday. She came back.", ["Dr. Fenn left at 6 p.m. on Monday.", "She came back."]),
        ("彼は来た。彼女は去った。", ["彼は来た。", "彼女は去った。"]),
        ("वह आया। वह गई।", ["वह आया।", "वह गई।"]),
        ("Wrapped at\neighty columns. It goes\non.", ["Wrapped at\neighty columns.", "It goes\non."]),
        ("First part\n\nSecond part", ["First part", "Second part"]),
        ("# Heading\nText under it.", ["# Heading", "Text under it."]),
        ("Buy:\n- milk\n- bread\n1. eggs", ["Buy:", "- milk", "- bread", "1. eggs"]),
        ("| a | b |\n|---|---|\n| 1 | 2 |", ["| a | b |", "|---|---|", "| 1 | 2 |"]),
        ("int f() {\n    return 1;\n}", ["int f() {", "    return 1;", "}"]),
        ('"k1": "v1",\n"k2": "v2"', ['"k1": "v1",', '"k2": "v2"']),
        ("name: Bob\nage: 12", ["name: Bob", "age: 12"]),
        ("a,b,c\n1,2,3", ["a,b,c", "1,2,3"]),
        ("Note: it was late. They left.\nThey slept.", ["Note: it was late.", "They left.", "They slept."]),
        ("  \n ", []),
    ],
)
def test_sentences_lines_and_blocks(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_the_language_decides_where_sentences_end() -> None:
    text = "Sie kam am 3. Mai. Danach ging sie."
    german = [text[a:b] for a, b in unit_spans(text, "sentence", "de")]
    assert german == ["Sie kam am 3. Mai.", "Danach ging sie."]
    assert unit_spans(text, "sentence", "xx") == unit_spans(text, "sentence")


def test_what_is_no_sentence_is_cut_between_words() -> None:
    cut = pieces(LONG)
    assert len(cut) > 1
    assert all(set(piece.split()) == {"word"} for piece in cut)


def test_a_script_without_spaces_is_cut_between_characters() -> None:
    text = "黄浦江 flows by"
    assert [text[a:b] for a, b in unit_spans(text, "token")] == ["黄", "浦", "江", "flows", "by"]
    assert longest_prefix(text, (0, len(text)), len, 2) == (0, 2)
    assert longest_prefix(text, (0, len(text)), len, 8) == (0, 3)
    long = "江" * 2500
    assert [b - a for a, b in sentence_spans(long, "zh")] == [1000, 1000, 500]


def test_units_cover_every_word_once_and_in_order() -> None:
    chance = random.Random(0)
    lines = [
        "Dr. Fenn left. She slept.",
        "- item",
        "k: v",
        "a,b,c",
        "",
        "    code(x)",
        "# Head",
        LONG,
        "end; {",
        "日本。",
    ]
    for _ in range(200):
        text = "\n".join(chance.choices(lines, k=chance.randint(0, 8)))
        for unit in ("sentence", "token"):
            spans = unit_spans(text, unit)
            assert all(a < b <= c < d for (a, b), (c, d) in pairwise(spans))
            kept = "".join(text[a:b] for a, b in spans)
            assert "".join(kept.split()) == "".join(text.split())
