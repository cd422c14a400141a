"""Units of a text: what is kept or dropped as a whole; and the text of the kept units.

All spans are half-open character ranges [start, end) into the text, ascending, without white space at their ends
except the indentation of lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from spec_rag.text.sentences import Span as Span
from spec_rag.text.sentences import cut_at_words as cut_at_words
from spec_rag.text.sentences import trim
from spec_rag.text.sentences import word_spans as word_spans
from spec_rag.text.structure.outline import CONTENT, Kind, Structure
from spec_rag.text.structure.reader import read_structure

MARK = " [...] "  # between pieces of a text that are not neighbours
PASSAGE_CHARS = 2000  # longer documents are read in passages of whole units, so that cost is linear


def unit_structure(text: str, unit: str, language: str = "en") -> Structure:
    """The units of a text: "sentence" (with what they need), "token" (whole words) or "document"."""
    if unit == "token":
        return Structure.plain(word_spans(text))
    if unit == "document":
        span = trim(text, 0, len(text))
        return Structure.plain([span] if span else [])
    return read_structure(text, language)


def unit_spans(text: str, unit: str, language: str = "en") -> list[Span]:
    """Spans of the units of a text: "sentence", "token" (whole words) or "document"."""
    return list(unit_structure(text, unit, language).spans)


def sentence_spans(text: str, language: str = "en") -> list[Span]:
    """Spans of sentences, statements of code, table rows, list items, lines of data and headings.

    Args:
        text: any text.
        language: ISO 639 code, for abbreviations and ordinals; unknown codes are treated as English. "auto" detects it.
    """
    return list(read_structure(text, language).spans)


def passage_spans(text: str, units: Sequence[Span]) -> list[Span]:
    """Spans of the passages of a text: runs of whole units, each of at most PASSAGE_CHARS characters, or one unit.

    Args:
        text: the text.
        units: spans of its units, ascending.
    """
    spans: list[Span] = []
    start = 0
    for i, unit in enumerate(units):
        is_last = i + 1 == len(units)
        if is_last or units[i + 1][1] - start > PASSAGE_CHARS:
            spans.append((start, len(text) if is_last else unit[1]))
            start = len(text) if is_last else units[i + 1][0]
    return spans


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


def touched(units: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Whether each unit shares a character with one of the spans; both are ascending."""
    found, i = [], 0
    for start, end in units:
        while i < len(spans) and spans[i][1] <= start:
            i += 1
        found.append(i < len(spans) and spans[i][0] < end)
    return found


def kept_text(text: str, spans: Sequence[Span], ellipsis: str | None, structure: Structure | None = None) -> str:
    """The kept spans of a text, joined.

    Args:
        text: the text.
        spans: its kept spans, ascending.
        ellipsis: stands where something was dropped between, before or after the spans; between them stands at least a
            space, or a line break where one was dropped. None: " [...] " between the spans, but only a line break where
            it would break a table, a record or a heading.
        structure: kinds of the units of the text, for None.
    """
    if not spans:
        return ""
    if ellipsis is None:
        return _with_marks(text, spans, structure)
    body = [text[slice(*spans[0])]]
    for (_, end), (start, stop) in pairwise(spans):
        breaks = "\n" in text[end:start]
        body += [f"{ellipsis.rstrip()}\n" if breaks else ellipsis or " ", text[start:stop]]
    mark = ellipsis.strip()
    if not mark:
        return "".join(body)
    before = f"{mark} " if text[: spans[0][0]].strip() else ""
    after = f" {mark}" if text[spans[-1][1] :].strip() else ""
    return before + "".join(body) + after


def _with_marks(text: str, spans: Sequence[Span], structure: Structure | None) -> str:
    starts, ends = structure.edges if structure else ({}, {})
    body = [text[slice(*spans[0])]]
    for (_, end), (start, stop) in pairwise(spans):
        is_json = structure is not None and structure.is_json
        body += [_gap(text[end:start], ends.get(end, "text"), starts.get(start, "text"), is_json), text[start:stop]]
    joined = "".join(body)
    is_excerpt = (
        structure is not None and structure.is_json and MARK.strip() not in joined and len(joined) < len(text.strip())
    )
    return joined + MARK.rstrip() if is_excerpt else joined


def _gap(dropped: str, left: Kind, right: Kind, is_json: bool) -> str:
    """What stands between two pieces of these kinds: a mark, or a line break where the structure shows the gap."""
    if "\n" not in dropped:
        return MARK
    if is_json:
        return f"{MARK.rstrip()}\n"
    if left not in CONTENT or right in ("fence", "header", "rule", "key", "speaker", "question"):
        return "\n"
    if right == "heading":
        return "\n\n"
    if left == right and left in ("row", "field"):
        return "\n"
    if "code" in (left, right):
        return f"\n{MARK.strip()}\n"
    if left in ("row", "field"):
        return f"\n\n{MARK.strip()}\n"
    return f"{MARK.rstrip()}\n"
