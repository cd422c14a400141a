"""Mapping of character ranges from a compressed text to its original."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

Span = tuple[int, int]


ELLIPSES: tuple[str | None, ...] = (None, "", " … ", "…", " ... ", " [...] ")
_GAPS = ("\n\n[...]\n", "\n[...]\n", " [...]\n", " [...] ", "\n\n", "\n", " ")  # of `kept_text` without ellipsis


def original_spans(
    text: str, spans: Sequence[Sequence[int]], kept: Sequence[Span], ellipsis: str | None = None
) -> list[Span] | None:
    """Map ranges of a compressed text to ranges of its original.

    Args:
        text: the compressed text.
        spans: ranges of the original that it consists of, ascending.
        kept: ranges of the compressed text, ascending.
        ellipsis: the expected separator of the pieces; common ones are tried as well.

    Returns:
        Ranges of the original, ascending; None if the spans do not match the text.
    """
    found = mapped_spans(text, spans, kept, ellipsis)
    return None if found is None else [span for _, span in found]


def mapped_spans(
    text: str, spans: Sequence[Sequence[int]], kept: Sequence[Span], ellipsis: str | None = None
) -> list[tuple[int, Span]] | None:
    """As `original_spans`, each with its start in the compressed text."""
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


def _starts(text: str, lengths: Sequence[int], ellipsis: str | None) -> list[int] | None:
    """Starts of pieces of these lengths in a text joined by `kept_text` with this ellipsis; None if they do not fit."""
    mark = "[...]" if ellipsis is None else ellipsis.strip()
    gaps = _GAPS if ellipsis is None else (f"{ellipsis.rstrip()}\n", ellipsis or " ")
    beginnings = [0]  # the first piece may begin with the mark itself
    if mark and text.startswith(f"{mark} "):
        beginnings.append(len(mark) + 1)
    for at in beginnings:
        starts: list[int] = []
        for i, length in enumerate(lengths):
            if i:
                gap = next((gap for gap in gaps if text.startswith(gap, at)), None)
                if gap is None:
                    break
                at += len(gap)
            starts.append(at)
            at += length
        ends_well = text[at:] == "" or (mark and text[at:] == f" {mark}")
        if len(starts) == len(lengths) > 0 and ends_well and min(lengths) > 0:
            return starts
    return None
