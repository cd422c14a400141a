"""Where a text may be cut."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from typing import Any

import pytest
from sentencex import get_sentence_boundaries

from spec_rag.compression.unit_cutting import longest_prefix
from spec_rag.text import sentences as units_module
from spec_rag.text.units import cut_at_words, kept_text, merged, sentence_spans, touched, unit_spans, word_spans

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
    assert [b - a for a, b in sentence_spans(long, "zh")] == [250] * 10


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


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "def pay(a, b):\n    if a > b:\n        return a\n    total = a + b\n",
            ["def pay(a, b):", "    if a > b:", "        return a", "    total = a + b"],
        ),
        (
            "def all(xs):\n  for x in xs:\n    use(x)\n  if xs:\n    end()\n",
            ["def all(xs):", "  for x in xs:", "    use(x)", "  if xs:", "    end()"],
        ),
        ("class Hut:\n\tdef keeper(self):\n\t\treturn 1\n", ["class Hut:", "\tdef keeper(self):", "\t\treturn 1"]),
        ("hosts:\n    - a\n    - b\n  name: x\n", ["hosts:", "    - a", "    - b", "  name: x"]),
        (" It begins in mid-line.\n\n  It is set in.", ["It begins in mid-line.", "  It is set in."]),
    ],
)
def test_a_line_that_stands_alone_keeps_its_indentation(code: str, expected: list[str]) -> None:
    assert pieces(code) == expected


@pytest.mark.parametrize("space", ["\u00a0", "\u2009", "\u202f", "\u3000", "\u2003", "\u1680"])
def test_spaces_of_every_kind_are_split_at_as_plain_ones_are(space: str) -> None:
    text = f"He met{space}J. Smith there.{space}Then he left."
    assert pieces(text) == [f"He met{space}J. Smith there.", "Then he left."]


def test_no_text_stops_the_splitter() -> None:
    """Odd spaces, initials and lone surrogates, which the splitter itself does not survive."""
    chance = random.Random(3)
    letters = "abc.J S!?\u00a0\u2009\u3000\u2028\u0085\u001c\n\t\ud83d\udc00é中。\"'()1 "
    for _ in range(3000):
        text = "".join(chance.choices(letters, k=chance.randint(0, 30)))
        kept = "".join(piece for piece in pieces(text))
        assert "".join(kept.split()) == "".join(text.split())


def test_a_lone_surrogate_ends_no_request() -> None:
    assert pieces("One is \ud800 red. Two is blue.") == ["One is \ud800 red.", "Two is blue."]


def test_a_long_span_is_cut_at_word_borders_and_within_a_word_only_where_it_must_be() -> None:
    text = "  aaa bbb ccc"
    assert [text[a:b] for a, b in cut_at_words(text, (2, 13), 7)] == ["aaa bbb", "ccc"]
    assert cut_at_words(text, (2, 13), 11) == [(2, 13)]
    long = "a" * 25
    assert cut_at_words(long, (0, 25), 10) == [(0, 10), (10, 20), (20, 25)]


def test_what_is_too_long_for_a_sentence_is_cut_into_pieces_as_long_as_sentences_are() -> None:
    words = "and so it went on " * 100
    lengths = [len(piece) for piece in pieces(words)]
    assert max(lengths) <= 250
    assert min(lengths[:-1]) > 240
    assert pieces(f"{words[:990].strip()}.") == [f"{words[:990].strip()}."]
    row = "| " + "cell " * 300 + "|"
    assert max(len(piece) for piece in pieces(row)) <= 250


def test_neighbouring_units_that_are_both_kept_become_one_span() -> None:
    units = [(0, 4), (5, 9), (11, 15), (16, 20)]
    assert merged([units[0], units[1], units[3]], units, [0, 1, 3]) == [(0, 9), (16, 20)]
    assert merged([], units, []) == []


def test_a_unit_that_was_cut_does_not_join_its_neighbours() -> None:
    units = [(0, 4), (5, 9), (10, 14)]
    assert merged([(0, 4), (6, 9), (10, 14)], units, [0, 1, 2]) == [(0, 4), (6, 14)]
    assert merged([(0, 4), (5, 8), (10, 14)], units, [0, 1, 2]) == [(0, 8), (10, 14)]


def test_kept_text_marks_what_was_dropped_before_between_and_behind() -> None:
    text = "One. Two. Three. Four."
    assert kept_text(text, [(5, 9), (17, 22)], "") == "Two. Four."
    assert kept_text(text, [(5, 9), (17, 22)], " … ") == "… Two. … Four."
    assert kept_text(text, [(0, 4)], " … ") == "One. …"
    assert kept_text(text, [(0, 22)], " … ") == text
    assert kept_text(text, [], " … ") == ""


def test_a_document_is_one_unit_without_the_space_around_it() -> None:
    assert unit_spans("  One. Two. \n", "document") == [(2, 11)]
    assert unit_spans(" \n", "document") == []


def test_words_are_runs_without_space() -> None:
    assert word_spans(" it's  3,5-fold ") == [(1, 5), (7, 15)]


def test_a_fault_of_the_splitter_leaves_the_block_whole_and_an_interruption_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class PanicException(BaseException):  # as the splitter's own code raises it
        pass

    for raised, expected in ((PanicException, ["One. Two.", "- three"]), (KeyboardInterrupt, None)):

        def split(*_: object, raised: type[BaseException] = raised) -> None:
            raise raised

        monkeypatch.setattr("spec_rag.text.sentences.get_sentence_boundaries", split)
        if expected is None:
            with pytest.raises(raised):
                pieces("One. Two.")
        else:
            assert pieces("One. Two.\n- three") == expected


def test_the_splitter_sees_long_texts_in_pieces_that_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own work grows with the square of what it sees at once."""
    sentences = [f"他在第{i}号小屋里，说：“门是开着的。”" if i % 3 else f"Übung {i} war gut. " for i in range(2000)]
    text = "".join(sentences)
    whole = get_sentence_boundaries("zh", text)
    expected = [text[slice(one["start_index"], one["end_index"])].strip() for one in whole]
    seen: list[int] = []

    def split(language: str, block: str) -> object:
        seen.append(len(block))
        return get_sentence_boundaries(language, block)

    monkeypatch.setattr("spec_rag.text.sentences.get_sentence_boundaries", split)
    assert [text[a:b] for a, b in sentence_spans(text, "zh")] == expected
    assert max(seen) <= 4000
    assert sum(seen) < 1.1 * len(text)


@pytest.mark.parametrize(
    "line", ["江湖是。", "a\n", "a\n\n", "word ", "J. ", '"a. ', "(a. ", "a\t", "שלום. ", " \n", "| a\n"]
)
def test_cutting_takes_no_longer_than_the_length_of_a_text_lets_expect(line: str) -> None:
    def seconds(text: str) -> float:
        start = time.process_time()
        sentence_spans(text)
        return time.process_time() - start

    small, large = line * 2000, line * 16_000
    # eight times the length: 64 times the time where a step is quadratic
    assert min(seconds(large) for _ in range(2)) < 32 * max(min(seconds(small) for _ in range(3)), 0.002)


def test_a_long_line_without_spaces_is_cut_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def split(language: str, text: str) -> list[dict[str, Any]]:
        seen.append(len(text))
        return get_sentence_boundaries(language, text)

    monkeypatch.setattr(units_module, "get_sentence_boundaries", split)
    spans = unit_spans("<!--" * 5000, "sentence")
    assert max(seen) <= 4000
    assert "".join(("<!--" * 5000)[a:b] for a, b in spans) == "<!--" * 5000
    seen.clear()
    unit_spans("One two three. " * 1000, "sentence")
    assert max(seen) > 4000, "what has spaces is read whole"


def test_the_marks_of_lines_that_stand_alone() -> None:
    for line in (
        *(
            "| a",
            "- a",
            "* a",
            "+ a",
            "• a",
            "1. a",
            "12) a",
            "# a",
            "###### a",
            "```",
            "~~~",
            "    a",
            "\ta",
            "x = 1;",
        ),
        *(
            "a\tb\tc",
            "def f(x):",
            "class A:",
            "import os",
            "from a.b import c",
            "return x",
            "else:",
            "  f(x)",
            "  x += 1",
        ),
    ):
        assert pieces(f"One goes\n{line}\non.") == ["One goes", line, "on."], line
    for line in ("-a", "1.a", "####### a", "   a", "a; b", "a\tb", "definition", "imports", "returned", " f(x)"):
        assert pieces(f"One goes\n{line}\non.") == [f"One goes\n{line}\non."], line


def test_what_is_fenced_stands_line_by_line_and_the_fence_too() -> None:
    text = "Look here.\nAnd there.\n```\nOne goes\non. Two\n\n  goes\n```\nThree goes\non."
    assert pieces(text) == [
        "Look here.", "And there.", "```", "One goes", "on. Two", "  goes", "```", "Three goes\non.",
    ]  # fmt: skip


def test_a_line_of_data_is_one_only_beside_another() -> None:
    assert pieces("Note: late\nthey left\nthen.") == ["Note: late\nthey left\nthen."]
    assert pieces("they left\nName: Bob\nAge: 12") == ["they left", "Name: Bob", "Age: 12"]
    assert pieces("Name: Bob\nAge: 12\nthey left\nthen.") == ["Name: Bob", "Age: 12", "they left\nthen."]
    assert pieces("Name: Bob\n\nAge: 12\nso") == ["Name: Bob", "Age: 12\nso"]


def test_a_span_is_cut_at_the_last_border_that_still_fits() -> None:
    text = "aa bb cc dd"
    assert [text[a:b] for a, b in cut_at_words(text, (0, 11), 4)] == ["aa", "bb", "cc", "dd"]
    assert [text[a:b] for a, b in cut_at_words(text, (3, 11), 5)] == ["bb cc", "dd"]
    spaced = "aa          bb"
    assert [spaced[a:b] for a, b in cut_at_words(spaced, (0, 14), 4)] == ["aa", "bb"]


def test_three_units_in_a_row_are_one_span_and_a_cut_end_begins_another() -> None:
    units = [(0, 4), (5, 9), (10, 14), (15, 19), (20, 24)]
    assert merged(units[:3], units, [0, 1, 2]) == [(0, 14)]
    assert merged(units[1:3], units, [1, 2]) == [(5, 14)]
    assert merged([units[0], units[2], units[4]], units, [0, 2, 4]) == [(0, 4), (10, 14), (20, 24)]
    assert merged([(0, 3), (5, 9), (10, 14)], units, [0, 1, 2]) == [(0, 3), (5, 14)]


def test_units_are_touched_from_their_first_to_their_last_character() -> None:
    units = [(0, 4), (5, 9), (10, 14)]
    assert touched(units, [(3, 6)]) == [True, True, False]
    assert touched(units, [(4, 5), (9, 10)]) == [False, False, False]
    assert touched(units, [(0, 1), (1, 2), (13, 20)]) == [True, False, True]
    assert touched([], [(0, 1)]) == []


def test_where_a_line_break_was_dropped_one_stays() -> None:
    text = "One.\nTwo.\nThree. Four."
    assert kept_text(text, [(0, 4), (10, 16)], "") == "One.\nThree."
    assert kept_text(text, [(0, 4), (10, 16)], " … ") == "One. …\nThree. …"
    assert kept_text(text, [(5, 9), (17, 22)], "…") == "… Two.…\nFour."
    assert kept_text(text, [(10, 16), (17, 22)], "…") == "… Three.…Four."
    assert kept_text("  One. Two. ", [(2, 6), (7, 11)], " … ") == "One. … Two."


def test_a_sentence_of_a_thousand_characters_is_whole_and_a_longer_one_is_cut() -> None:
    for length, whole in ((1000, True), (1001, False)):
        text = ("word " * 300)[: length - 1].rstrip() + "."
        text = text.replace(".", "x" * (length - len(text)) + ".")
        assert len(text) == length
        assert (len(sentence_spans(text)) == 1) is whole
