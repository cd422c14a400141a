"""Retrieval scores of any kind as relevance: higher is better.

This module knows numbers in the order in which a retriever returned them; it does not know retrievers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from spec_rag.text.documents import as_number


def relevance(scores: Sequence[Any]) -> list[float] | None:
    """What a store said of its results, which come best first: similarities as they are, distances negated.

    Args:
        scores: one per result, in the order in which they were returned; numbers of any type.

    Returns:
        One per result; a score that is not finite stays as it is, and `compress` leaves it out with a warning. None
        where the finite scores do not follow the order, so that nothing can be read from them.
    """
    numbers = [as_number(score) for score in scores]
    finite = [number for number in numbers if math.isfinite(number)]
    if all(a >= b for a, b in pairwise(finite)):
        sign = 1.0
    elif all(a <= b for a, b in pairwise(finite)):
        sign = -1.0
    else:
        return None
    return [sign * number if math.isfinite(number) else number for number in numbers]


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
    """Relevance of `count` results of which only the order is known, best first: reciprocal ranks."""
    return [1 / (1 + rank) for rank in range(count)]
