"""Generated questions: the same for everybody, their needed spans are sentences, and only there stands the answer."""

from __future__ import annotations

import pytest

from spec_rag.calibration.generated_questions import GeneratedQuestion, generated_questions
from spec_rag.errors import ConfigError
from spec_rag.text.units import unit_spans


@pytest.fixture(scope="module")
def cases() -> list[GeneratedQuestion]:
    return list(generated_questions(90, seed=7))


def needed_sentences(case: GeneratedQuestion) -> list[str]:
    return [case.documents[index].text[start:end] for index, start, end in case.needed]


def test_a_seed_gives_the_same_questions_however_many_are_asked_for(cases: list[GeneratedQuestion]) -> None:
    assert list(generated_questions(12, seed=7)) == cases[:12]
    assert list(generated_questions(12, seed=8)) != cases[:12]


def test_questions_are_the_same_on_every_machine() -> None:
    *_, last = generated_questions(6)
    assert last.question == "what is the star of the winter journey's date of birth"  # changes with the templates
    assert last.answers == ("December 12, 1901",)


def test_all_kinds_come_in_turn(cases: list[GeneratedQuestion]) -> None:
    kinds = [case.kind for case in cases]
    assert [kinds.count(kind) for kind in ("fact", "two-step", "needle")] == [45, 30, 15]


def test_needed_spans_are_whole_sentences(cases: list[GeneratedQuestion]) -> None:
    for case in cases:
        for index, start, end in case.needed:
            assert (start, end) in unit_spans(case.documents[index].text, "sentence")


def test_every_sentence_ends_where_the_splitter_ends_it(cases: list[GeneratedQuestion]) -> None:
    for document in (document for case in cases for document in case.documents):
        spans = unit_spans(document.text, "sentence")
        assert len(spans) == document.text.count(".")
        assert all(document.text[end - 1] == "." for _, end in spans)


def test_the_answer_stands_in_the_last_needed_sentence_and_nowhere_else(cases: list[GeneratedQuestion]) -> None:
    for case in cases:
        answer = case.answers[0].lower()
        assert answer in needed_sentences(case)[-1].lower()
        everything = [case.question, *(f"{document.title}\n{document.text}" for document in case.documents)]
        assert sum(text.lower().count(answer) for text in everything) == 1


def test_two_steps_lead_from_one_document_to_another_by_its_title(cases: list[GeneratedQuestion]) -> None:
    for case in (case for case in cases if case.kind == "two-step"):
        (first, *_), (second, *_) = case.needed
        assert first != second
        title = case.documents[second].title
        assert title is not None
        assert title in needed_sentences(case)[0]
        assert title.lower() not in case.question.lower()


def test_one_sentence_is_enough_for_the_other_kinds(cases: list[GeneratedQuestion]) -> None:
    assert all(len(case.needed) == 1 for case in cases if case.kind != "two-step")


def test_documents_are_passages_with_titles_of_their_own(cases: list[GeneratedQuestion]) -> None:
    for case in cases:
        assert len({document.title for document in case.documents}) == len(case.documents) == 10
        assert all(75 <= len(document.text.split()) <= 130 for document in case.documents)


@pytest.mark.parametrize("documents", [6, 25])
def test_there_are_as_many_documents_as_asked_for(documents: int) -> None:
    assert all(len(case.documents) == documents for case in generated_questions(12, documents=documents))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count=0: must be a whole number of at least 1"),
        ({"count": 2.5}, "count=2.5"),
        ({"count": 1, "documents": 5}, "documents=5: must be a whole number of at least 6"),
        ({"count": 1, "documents": True}, "documents=True"),
    ],
)
def test_arguments_that_cannot_work_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generated_questions(**arguments)
