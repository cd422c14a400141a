"""Character ranges of a text that has itself been put together from ranges of another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

Span = tuple[int, int]


ELLIPSES = ("", " … ", "…", " ... ", " [...] ")


def original_spans(
    text: str, spans: Sequence[Sequence[int]], kept: Sequence[Span], ellipsis: str = ""
) -> list[Span] | None:
    """Where ranges of a compressed text stand in the text that it was compressed from.

    Args:
        text: the compressed text.
        spans: the ranges of the first text that it was put together from, ascending.
        kept: ranges of the compressed text, ascending.
        ellipsis: what probably stands between the pieces; the usual ones are tried as well.

    Returns:
        Ranges of the first text, ascending; None where the spans do not describe the text.
    """
    found = mapped_spans(text, spans, kept, ellipsis)
    return None if found is None else [span for _, span in found]


def mapped_spans(
    text: str, spans: Sequence[Sequence[int]], kept: Sequence[Span], ellipsis: str = ""
) -> list[tuple[int, Span]] | None:
    """As `original_spans`, each with where it begins in the compressed text."""
    lengths = [end - start for start, end in spans]
    tried = (_starts(text, lengths, one) for one in (ellipsis, *ELLIPSES))
    starts = next((found for found in tried if found is not None), None)
    if starts is None:
        return None
    found: list[tuple[int, Span]] = []
    for start, end in kept:
        for i in range(max(bisect_right(starts, start) - 1, 0), len(starts)):
            (a, b), at = spans[i], starts[i]
            if at >= end:
                break
            first, last = max(start, at), min(end, at + b - a)
            if first < last:
                found.append((first, (a + first - at, a + last - at)))
    return found


def _starts(text: str, lengths: Sequence[int], ellipsis: str) -> list[int] | None:
    """Where pieces of these lengths begin in a text that `kept_text` put together with this ellipsis."""
    mark = ellipsis.strip()
    beginnings = [0]  # the first piece may begin with the mark itself
    if mark and text.startswith(f"{mark} "):
        beginnings.append(len(mark) + 1)
    for at in beginnings:
        starts: list[int] = []
        for i, length in enumerate(lengths):
            if i:
                gap = next((g for g in (f"{ellipsis.rstrip()}\n", ellipsis or " ") if text.startswith(g, at)), None)
                if gap is None:
                    break
                at += len(gap)
            starts.append(at)
            at += length
        ends_well = text[at:] == "" or (mark and text[at:] == f" {mark}")
        if len(starts) == len(lengths) > 0 and ends_well and min(lengths) > 0:
            return starts
    return None
