"""Parts of a unit that does not fit whole: its beginning, or the run of words with the most importance.

This module knows one text at a time; it does not know which units are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from spec_rag.text.token_counting import Counter
from spec_rag.text.units import Span, word_spans


def longest_prefix(text: str, span: Span, count: Counter, budget: int) -> Span | None:
    """The longest beginning of a span that ends at a word border and fits; None if not even a word does."""
    start, end = span
    borders = [start + stop for _, stop in word_spans(text[start:end])]
    low, high = 0, len(borders)
    while low < high:
        middle = (low + high) // 2
        if count(text[start : borders[middle]]) <= budget:
            low = middle + 1
        else:
            high = middle
    return (start, borders[low - 1]) if low else None


def best_window(text: str, span: Span, word_scores: Sequence[float], count: Counter, budget: int) -> Span | None:
    """The run of whole words of a span that fits and has the highest sum of scores.

    Args:
        word_scores: one per word of the span.
        count: tokens of a text.
        budget: the most tokens of the run.
    """
    words = [(span[0] + a, span[0] + b) for a, b in word_spans(text[span[0] : span[1]])]
    sums = [0.0, *accumulate(word_scores)]
    best: tuple[float, Span] | None = None
    behind = 0  # no run is longer for beginning later, so the end never goes back
    for first, (start, _) in enumerate(words):
        behind = max(behind, first)
        while behind < len(words) and count(text[start : words[behind][1]]) <= budget:
            behind += 1
        total = sums[behind] - sums[first]
        if behind > first and (best is None or total > best[0]):
            best = (total, (start, words[behind - 1][1]))
    return best[1] if best else None
