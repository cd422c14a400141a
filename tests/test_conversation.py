"""The question in force at a turn, and what is remembered of texts."""

from __future__ import annotations

import pytest

from spec_rag.answering.conversation import Frozen, question_at

TURNS = [
    ("system", "Be brief."),
    ("user", "First?"),
    ("assistant", ""),
    ("tool", "result"),
    ("user", " "),
    ("user", "Second?"),
    ("user", "Please."),
    ("tool", "result"),
    ("user", ""),
    ("tool", "result"),
]


@pytest.mark.parametrize(
    ("place", "question"),
    [
        (0, ""),
        (1, "First?"),
        (3, "First?"),
        (4, "Second?\nPlease."),
        (6, "Second?\nPlease."),
        (7, "Second?\nPlease."),
        (9, "Second?\nPlease."),
    ],
)
def test_the_question_is_the_run_of_user_turns_around_or_before(place: int, question: str) -> None:
    assert question_at(TURNS, place) == question


def test_later_turns_do_not_change_the_question_of_an_earlier_result() -> None:
    for end in range(4, len(TURNS) + 1):
        assert question_at(TURNS[:end], 3) == "First?"


def test_what_came_first_stays_and_the_least_recently_used_goes() -> None:
    frozen: Frozen[str] = Frozen(most=2)
    assert frozen.keep("a", "first") == "first"
    assert frozen.keep("a", "second") == "first"
    assert frozen.made("b", lambda: "b") == "b"
    assert frozen.get("a") == "first"
    assert frozen.made("c", lambda: "c") == "c"
    assert (frozen.get("a"), frozen.get("b"), frozen.get("c")) == ("first", None, "c")
