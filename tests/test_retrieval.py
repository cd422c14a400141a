"""Retrieval scores as relevance, told from their order alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from spec_rag.compression.retrieval import rank_relevance, relevance


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([0.9, 0.5, 0.5], [0.9, 0.5, 0.5]),  # similarities
        ([0.1, 0.1, 3.0], [-0.1, -0.1, -3.0]),  # distances
        ([0.2, 0.9, 0.1], None),  # neither
        ([0.9, math.nan, 0.1], [0.9, math.nan, 0.1]),  # one that is no number says nothing of the others
        ([0.1, math.inf, 3.0], [-0.1, math.inf, -3.0]),
        ([0.9, None, "x", 0.1], [0.9, math.nan, math.nan, 0.1]),
        ([0.2, math.nan, 0.9, 0.1], None),
        ([0.4], [0.4]),
        ([], []),
    ],
)
def test_relevance(told: list[Any], expected: list[float] | None) -> None:
    assert relevance(told) == pytest.approx(expected, nan_ok=True)


def test_ranks_are_reciprocal() -> None:
    assert rank_relevance(4) == [1, 1 / 2, 1 / 3, 1 / 4]
    assert rank_relevance(0) == []
