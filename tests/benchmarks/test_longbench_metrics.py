"""The metrics of LongBench."""

from __future__ import annotations

import pytest

from benchmarks import longbench_metrics as metrics


def test_rouge_follows_the_order_of_words() -> None:
    assert metrics.rouge_l("the mule carries mail", "the mule carries mail") == 1
    assert metrics.rouge_l("mail carries the mule", "the mule carries mail") == pytest.approx(0.5)


def test_code_is_the_first_line_that_is_no_comment() -> None:
    assert metrics.edit_similarity("```python\n# next\nreturn x\nmore", "return x") == 1
    assert 0 < metrics.edit_similarity("return y", "return x") < 1
    assert metrics.edit_similarity("", "return x") == 0


def test_naming_more_classes_than_the_right_one_costs() -> None:
    classes = ("City", "Capital City", "Date")
    assert metrics.classification("a Date", "Date", classes) == 1
    assert metrics.classification("City or Date", "Date", classes) == 0.5
    assert metrics.classification("a Capital City", "Capital City", classes) == 1  # "City" is a part of its name
    assert metrics.classification("City", "Date", classes) == 0


def test_numbers_beside_the_right_one_cost() -> None:
    assert metrics.numbers_right("7, or 7 of 8", "7") == pytest.approx(2 / 3)
    assert metrics.numbers_right("none", "7") == 0
    assert metrics.paragraph_right("Paragraph 7", "Paragraph 7") == 1
    assert metrics.paragraph_right("Paragraph 17", "Paragraph 7") == 0
