"""Metrics of LongBench (Bai et al. 2024, arXiv 2308.14508). All values are between 0 and 1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any


def rouge_l(text: str, answer: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004)."""
    return float(_rouge().score(answer, text)["rougeL"].fmeasure)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


def edit_similarity(text: str, answer: str) -> float:
    """1 less the share of edits between the first line that is no comment or fence and the right line of code."""
    from rapidfuzz import fuzz

    lines = text.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return float(fuzz.ratio(line, answer)) / 100


def classification(text: str, answer: str, classes: Sequence[str]) -> float:
    """1 / n where the right class is among the n that a text names; a part of the right one's name is no class."""
    named = [name for name in classes if name in text and (name == answer or name not in answer)]
    return 1 / len(named) if answer in named else 0.0


def numbers_right(text: str, answer: str) -> float:
    """Share of the numbers in a text that are the right one."""
    numbers = re.findall(r"\d+", text)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def paragraph_right(text: str, answer: str) -> float:
    """Share of the numbers in a text that are the one in the right answer, such as "Paragraph 7"."""
    found = re.search(r"\d+", answer)
    return numbers_right(text, found.group()) if found else 0.0
