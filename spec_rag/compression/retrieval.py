"""Retrieval scores of whatever kind as relevance: higher is better.

This module knows numbers in the order in which a retriever returned them; it does not know retrievers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def relevance(scores: Sequence[float]) -> list[float] | None:
    """What a store said of its results, which come best first: similarities as they are, distances turned round.

    Args:
        scores: one per result, in the order in which they were returned.

    Returns:
        None where nothing can be read from them: a score is no number, or they do not follow the order.
    """
    if any(not math.isfinite(score) for score in scores):
        return None
    if all(a >= b for a, b in pairwise(scores)):
        return [float(score) for score in scores]
    if all(a <= b for a, b in pairwise(scores)):
        return [-float(score) for score in scores]
    return None


def similarities(scores: Sequence[float], *, are_distances: bool = False) -> list[float] | None:
    """`relevance` on a scale that people read: a distance becomes 1 / (1 + distance), between 0 and 1.

    Args:
        scores: one per result, in the order in which they were returned.
        are_distances: what they are where their order does not tell, since there is one, or all are equal.

    Returns:
        None where nothing can be read from them.
    """
    found = relevance(scores)
    if not found:
        return found
    tied = len(set(scores)) == 1
    if not (are_distances if tied else scores[-1] > scores[0]):
        return found
    if min(scores) < 0:  # such as an inner product with its sign turned
        return [-float(score) for score in scores]
    return [1 / (1 + score) for score in scores]


def rank_relevance(count: int) -> list[float]:
    """Relevance of so many results of which only the order is known, best first: reciprocal ranks."""
    return [1 / (1 + rank) for rank in range(count)]
