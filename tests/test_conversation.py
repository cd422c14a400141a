"""The question in force at a turn, and what is remembered of texts."""

from __future__ import annotations

import pytest

from spec_rag.answering.conversation import WriteOnceCache, question_at

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
    frozen: WriteOnceCache[str] = WriteOnceCache(2, 2**20, len)
    assert frozen.keep("a", "first") == "first"
    assert frozen.keep("a", "second") == "first"
    assert frozen.keep("b", "b") == "b"
    assert frozen.get("a") == "first"
    assert frozen.keep("c", "c") == "c"
    assert (frozen.get("a"), frozen.get("b"), frozen.get("c")) == ("first", None, "c")
    frozen.replace("a", "third")
    assert (frozen.get("a"), frozen.get("c")) == ("third", "c")


def test_bytes_are_a_bound_too_and_what_is_larger_by_itself_is_not_remembered() -> None:
    frozen: WriteOnceCache[str] = WriteOnceCache(100, 10_000, len)
    for name in "abcdefgh":
        frozen.keep(name, "x" * 4000)
        assert frozen.held_bytes <= 10_000
    assert [name for name in "abcdefgh" if frozen.get(name)] == ["g", "h"]
    held = frozen.held_bytes
    assert frozen.keep("larger", "x" * 10_000) == "x" * 10_000
    assert frozen.get("larger") is None
    assert frozen.held_bytes == held
    frozen.replace("h", "x")
    assert frozen.held_bytes == held - 3999
    frozen.replace("h", "x" * 10_000)
    assert frozen.get("h") is None
    assert 4000 < frozen.held_bytes < held / 2 + 1
