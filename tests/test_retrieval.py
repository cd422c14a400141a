"""Retrieval scores as relevance, told from their order alone."""

from __future__ import annotations

import math

import pytest

from spec_rag.compression.retrieval import rank_relevance, relevance


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([0.9, 0.5, 0.5], [0.9, 0.5, 0.5]),  # similarities
        ([0.1, 0.1, 3.0], [-0.1, -0.1, -3.0]),  # distances
        ([0.2, 0.9, 0.1], None),  # neither
        ([0.9, math.nan], None),
        ([math.inf, 0.1], None),
        ([0.4], [0.4]),
        ([], []),
    ],
)
def test_relevance(told: list[float], expected: list[float] | None) -> None:
    assert relevance(told) == expected


def test_ranks_are_reciprocal() -> None:
    assert rank_relevance(4) == [1, 1 / 2, 1 / 3, 1 / 4]
    assert rank_relevance(0) == []
