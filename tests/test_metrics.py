"""How near a text is to what people wrote."""

from __future__ import annotations

import pytest

from benchmarks.cases import best_f1, exact_match, f1


def test_f1_weighs_words_that_are_missing_and_words_that_are_too_many() -> None:
    assert f1("the baker Odalys Fenn", "Odalys Fenn") == pytest.approx(0.8)
    assert f1("The Odalys, Fenn!", "odalys fenn") == 1
    assert f1("nobody", "Odalys Fenn") == f1("", "Odalys Fenn") == 0
    assert best_f1("Fenn", ["Odalys Fenn", "Fenn"]) == 1


def test_only_the_whole_answer_is_an_exact_match() -> None:
    assert exact_match("The Fenn.", ["Odalys Fenn", "fenn"]) == 1
    assert exact_match("It is Fenn", ["Fenn"]) == 0
