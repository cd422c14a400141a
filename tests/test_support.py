"""The text that supports an answer, the prompt made of kept text, and the matching of answers."""

from __future__ import annotations

import pytest

from spec_rag.answering.answer import answer_messages, find_support
from spec_rag.evaluation.metrics import holds_answer
from spec_rag.report import Compression
from spec_rag.results import CompressedDocument, KeptUnit
from spec_rag.text.documents import Document


def kept(query: str, unit: str = "sentence", **metadata: object) -> Compression:
    text = "Anna is the cook. The tank holds 42,500 litres. Anna has 12 tanks."
    units = [KeptUnit(0, 17, 0.9, 4, True), KeptUnit(18, 47, 0.5, 8, True), KeptUnit(48, 66, 0.1, 5, True)]
    source = Document(text, metadata={"source": "f.pdf", "start": 1000, **metadata})
    one = CompressedDocument(text, [(0, 47), (48, 66)], source, "F", text, 20, 17, units)
    return Compression([one], query, 20, "draft", 1.0, {"unit": unit})


def test_support_is_the_sentence_that_the_answers_words_come_from() -> None:
    support = find_support(kept("How much does the tank hold?"), "It holds 42,500 litres.")
    assert support is not None
    assert (support.source, support.start, support.end) == ("f.pdf", 1018, 1047)
    assert support.text == "The tank holds 42,500 litres."
    assert support.matched


def test_support_of_an_answer_from_nowhere_is_the_most_important_text() -> None:
    support = find_support(kept("How much?"), "Bananas!")
    assert support is not None
    assert (support.text, support.matched) == ("Anna is the cook.", False)


def kept_units(query: str, *units: str, importance: float = 0.0) -> Compression:
    text = " ".join(units)
    ends = [sum(len(unit) + 1 for unit in units[: i + 1]) - 1 for i in range(len(units))]
    scored = [
        KeptUnit(end - len(unit), end, importance * i, 5, True, "score" if importance else "whole")
        for i, (unit, end) in enumerate(zip(units, ends, strict=True))
    ]
    source = Document(text, metadata={"source": "f.md"})
    one = CompressedDocument(text, [(0, len(text))], source, "F", text, 20, 20, scored)
    return Compression([one], query, 20, "draft", 1.0, {"unit": "sentence"})


@pytest.mark.parametrize(
    ("answer", "support"),
    [
        ("1. The fuel is blue.\n2. It burns.", "The fuel burns blue."),
        ("- 1) Blue [1]", "The fuel burns blue."),
        ("The tank holds 42500 litres.", "It takes 42,500 litres."),
        ("It has 7.", "Cabin 7 is red."),
    ],
)
def test_numbers_of_list_items_do_not_point_to_a_support(answer: str, support: str) -> None:
    units = ("Step 1. Go to hut 2 and see [1].", "It takes 42,500 litres.", "The fuel burns blue.", "Cabin 7 is red.")
    found = find_support(kept_units("How much?", *units), answer)
    assert found is not None
    assert (found.text, found.matched) == (support, True)


def test_words_of_the_question_do_not_outweigh_those_of_the_answer() -> None:
    units = ("The steel tank holds water.", "In May 42,500 crowns were paid.", "Dogs travel free.")
    compression = kept_units("How much water is in the steel tank?", *units)
    support = find_support(compression, "It holds what 42,500 crowns paid.")
    assert support is not None
    assert support.text == units[1]


def test_chinese_is_matched_by_its_characters() -> None:
    units = ("山口在十二月关闭。", "水箱容量为三百升。", "小屋的门是红色的。")
    for answer, support in (("容量是三百升。", units[1]), ("红", units[2]), ("十二月", units[0])):
        found = find_support(kept_units("多少？", *units), answer)
        assert found is not None
        assert (found.text, found.matched) == (support, True), answer


@pytest.mark.parametrize("answer", ["", "Bananas!", "It is the one that was there.", "1.", "Ja.", "1.1.1.1."])
def test_where_nothing_was_scored_and_no_word_is_shared_there_is_no_support(answer: str) -> None:
    units = ("The tank is the largest one.", "Dogs travel free.", "It is open in May.")
    assert find_support(kept_units("How much?", *units), answer) is None
    scored = find_support(kept_units("How much?", *units, importance=0.5), answer)
    assert scored is not None
    assert (scored.text, scored.matched) == (units[2], False)


def test_support_names_the_page_and_follows_spans_where_words_were_kept() -> None:
    support = find_support(kept("Who?", unit="token", page_starts=[0, 900, 2000]), "42,500")
    assert support is not None
    assert (support.page, support.start, support.end) == (2, 1000, 1047)
    assert find_support(Compression([], "q", 1, "d", 0.0), "answer") is None


def test_prompt_holds_titles_kept_text_and_the_question_last() -> None:
    content = answer_messages(kept("Who cooks?"))[-1]["content"]
    assert content.startswith("F: Anna is the cook.")
    assert content.endswith("\n\nQuestion: Who cooks?")


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("It weighs 3,870 Kilograms.", "3,870 kilograms", True),
        ("The answer is 68.", "68", True),
        ("The answer is 168.", "68", False),
        ("The answer is 68.5", "68", False),
        ("It costs 1,480 crowns", "480", False),
        ("cooled to −124 degrees", "-124", True),
        ("Cabin\n7 is red", "Cabin 7", True),
        ("Beckett found it", "Beck", False),
    ],
)
def test_answers_are_found_as_whole_words_and_numbers(text: str, answer: str, expected: bool) -> None:
    assert holds_answer(text, [answer]) is expected
