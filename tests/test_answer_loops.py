"""An answer that repeats itself is ended before the repetition; one that does not is passed on whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny import tiny_pair

from spec_rag.answering.generators import LocalGenerator, is_demonstration
from spec_rag.answering.loops import LoopGuard
from spec_rag.generation import streaming
from spec_rag.results import Answer
from spec_rag.utils.cancellation import Cancellation


def fed(text: str, size: int = 3) -> tuple[LoopGuard, str]:
    """A guard that was fed a text in pieces, and what it passed on."""
    guard = LoopGuard()
    shown = "".join(guard.feed(text[i : i + size]) for i in range(0, len(text), size))
    return guard, shown + guard.finish()


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("It is " + "1." * 200, "It is 1.1.1.1.1."),
        ("The " + "tank and the " * 60, "The tank and the tank and the"),
        ("The tank holds 300 litres. " * 9, "The tank holds 300 litres. The tank holds 300 litres."),
        (
            "Yes. " + "It is open.\nIt is closed on Mondays.\n" * 9,
            "Yes. It is open.\nIt is closed on Mondays.\nIt is open.\n",
        ),
        ("1. Turn the key left.\n2. Turn the key left.\n3. Turn the key left.\n4. Turn", "1. Turn the key left."),
        ("水箱容量为三百升。" * 20, "水箱容量为三百升。"),
        ("0" * 300, "0" * 24),
    ],
)
def test_a_loop_is_ended(text: str, most: str, size: int) -> None:
    guard, shown = fed(text, size)
    assert guard.looping
    assert len(shown) < len(text) / 2 or text.startswith("1. Turn")
    assert text.startswith(guard.text)
    assert 0 < len(guard.text) <= max(len(most), size + 8)


@pytest.mark.parametrize(("unit", "copies"), [("The red tank is full and ", 3), ("a tank, and ", 5), ("10, ", 8)])
def test_a_loop_is_found_at_its_last_copy_and_not_before(unit: str, copies: int) -> None:
    assert [fed(f"Open: {unit * n}", 400)[0].looping for n in (copies - 1, copies)] == [False, True]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "It holds 1,000,000,000,000 litres.",
        "Room 1 costs 5 crowns. Room 2 costs 5 crowns. Room 3 costs 5 crowns. Room 4 costs 5 crowns.",
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 1 | 2 |",
        "Ha ha ha! It is, it is, it is open.",
        "0.3333333333",
        "-" * 400,
        "aaa bbb " + "." * 90,
        "Open on Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.",
        "No. No. No. It is not.",
        "x = [0, 0, 0, 0, 0, 0]",
    ],
)
def test_an_ordinary_answer_is_passed_on_whole(text: str, size: int) -> None:
    guard, shown = fed(text, size)
    assert not guard.looping
    assert shown == guard.text == text


def test_a_looping_model_on_this_machine_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def run(emit: Callable[[str], None], cancelled: Cancellation) -> Answer:
        while not cancelled.is_set() and len(written) < 100_000:
            written.append("1.")
            emit("1.")
        return Answer("".join(written), [], 5, 5, len(written), "cancelled")

    monkeypatch.setattr(streaming, "stream", lambda *_, **__: streaming.AnswerStream(run, streaming.WrittenTokens()))
    shown: list[str] = []
    answer = LocalGenerator(tiny_pair()).answer([{"role": "user", "content": "Who?"}], 400, shown.append)
    assert answer.finish_reason == "repetition"
    assert (answer.text, "".join(shown)) == ("1.", "1.1.1.")
    assert len(written) < 100_000


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("/models/SmolLM2-135M-Instruct/", True),
        ("smollm2-135m-instruct-q8_0.gguf", True),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", False),
        ("llama3.2", False),
        ("", False),
    ],
)
def test_the_demonstration_model_is_known_by_its_name(model: str, expected: bool) -> None:
    assert is_demonstration(model) is expected
