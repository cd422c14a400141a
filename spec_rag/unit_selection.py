"""Which units are kept within a budget, and what text they leave. One code for sentences, words and documents.

This module knows numbers and spans; it does not know where scores come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from spec_rag.units import Span, word_spans


def select_units(
    scores: Tensor,
    tokens: Sequence[int],
    budget: int,
    coverage: float | None = None,
    part_of: Callable[[int, int], int] | None = None,
) -> list[int]:
    """Take units by falling score: each that still fits, and a part of those that do not.

    Args:
        scores: [units].
        tokens: length of each unit.
        budget: the most tokens in all.
        coverage: stop when the units taken carry this share of the importance: the softmax of the scores.
        part_of: called with a unit that does not fit and the room that is left; returns how many tokens a part of it
            takes, 0 to skip it. None skips all.

    Returns:
        Indices of the kept units, ascending.
    """
    mass = scores.float().softmax(0).tolist() if len(scores) else []
    kept: list[int] = []
    room, carried = budget, 0.0
    for i in scores.argsort(descending=True, stable=True).tolist():
        if coverage is not None and carried >= coverage:
            break
        taken = tokens[i] if tokens[i] <= room else part_of(i, room) if part_of else 0
        if taken or tokens[i] == 0:
            kept.append(i)
            room -= taken
            carried += mass[i]
    return sorted(kept)


def merged(spans: Sequence[Span], units: Sequence[Span], kept: Sequence[int]) -> list[Span]:
    """Join the spans of neighbouring kept units, with what stands between them.

    Args:
        spans: the spans to join, one per kept unit.
        units: spans of all units of the text, ascending.
        kept: their indices among the units, ascending.
    """
    joined: list[Span] = []
    last = -2
    for index, span in zip(kept, spans, strict=True):
        whole_before = joined and joined[-1][1] == units[last][1]
        if index == last + 1 and whole_before and span[0] == units[index][0]:
            joined[-1] = (joined[-1][0], span[1])
        else:
            joined.append(span)
        last = index
    return joined


def kept_text(text: str, spans: Sequence[Span], ellipsis: str) -> str:
    """The kept spans of a text, with `ellipsis` where something was dropped between, before or after.

    Between spans stands at least a space, or a line break where one was dropped.
    """
    if not spans:
        return ""
    body = text[slice(*spans[0])]
    for (_, end), (start, stop) in pairwise(spans):
        breaks = "\n" in text[end:start]
        body += (f"{ellipsis.rstrip()}\n" if breaks else ellipsis or " ") + text[start:stop]
    mark = ellipsis.strip()
    if not mark:
        return body
    before = f"{mark} " if text[: spans[0][0]].strip() else ""
    after = f" {mark}" if text[spans[-1][1] :].strip() else ""
    return before + body + after


def longest_prefix(text: str, span: Span, count: Callable[[str], int], budget: int) -> Span | None:
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


def best_window(
    text: str, span: Span, word_scores: Sequence[float], count: Callable[[str], int], budget: int
) -> Span | None:
    """The run of whole words of a span that fits and has the highest sum of scores.

    Args:
        word_scores: one per word of the span.
        count: tokens of a text.
        budget: the most tokens of the run.
    """
    words = [(span[0] + a, span[0] + b) for a, b in word_spans(text[span[0] : span[1]])]
    best: tuple[float, Span] | None = None
    for first in range(len(words)):
        fitting = longest_prefix(text, (words[first][0], span[1]), count, budget)
        if fitting is None:
            continue
        last = max(i for i in range(first, len(words)) if words[i][1] <= fitting[1])
        total = sum(word_scores[first : last + 1])
        if best is None or total > best[0]:
            best = (total, (words[first][0], words[last][1]))
    return best[1] if best else None
