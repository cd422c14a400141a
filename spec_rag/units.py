"""Where a text may be cut: sentences, lines of code, tables and lists, words.

All spans are character ranges into the text, in order, without white space at their ends. This module does not know
models or scores.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from sentencex import get_sentence_boundaries

Span = tuple[int, int]

# a line that is its own unit: a table row, a list item, a heading, indented or bracketed code
_LINE_UNIT = re.compile(r"\s*(\||[-*+•]\s|\d+[.)]\s|#{1,6}\s|```|    \S|\t\S|.*[;{}]\s*$|.*\t.*\t)")
# a line of data, if the one before or after it is such a line too: "key": value, key = value, a,b,c
_FIELD = re.compile(r"""\s*(["'][^"']{1,80}["']\s*[:,]|\w[\w ./-]{0,40}[:=]\s*\S|[^,\s][^,]*(,\S[^,]*){2,}$)""")
_SENTENCE_END_INSIDE = re.compile(r"[.!?]\s+\S")
# where a script puts no spaces between words, each of its characters counts as one
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_MAX_SENTENCE_CHARS = 1000  # beyond it, it is no sentence: cut at a word border


def unit_spans(text: str, unit: str, language: str = "en") -> list[Span]:
    """Spans of the units of a text: "sentence", "token" (whole words) or "document"."""
    if unit == "token":
        return word_spans(text)
    if unit == "document":
        span = _trim(text, 0, len(text))
        return [span] if span else []
    return sentence_spans(text, language)


def sentence_spans(text: str, language: str = "en") -> list[Span]:
    """Spans of sentences; lines that are code, data, table rows, list items or headings stand alone.

    Args:
        text: any text.
        language: its ISO 639 code, for abbreviations and ordinals; one that is not known is split as English.
    """
    spans: list[Span] = []
    block_start = 0
    position = 0
    lines = text.splitlines(keepends=True)
    fields = [bool(_FIELD.match(line.rstrip())) and not _SENTENCE_END_INSIDE.search(line) for line in lines]
    for i, line in enumerate(lines):
        in_data = fields[i] and any(fields[max(i - 1, 0) : i] + fields[i + 1 : i + 2])
        if in_data or _LINE_UNIT.match(line):
            spans += _sentences(text, block_start, position, language)
            span = _trim(text, position, position + len(line))
            spans += cut_at_words(text, span, _MAX_SENTENCE_CHARS) if span else []
            block_start = position + len(line)
        elif not line.strip():
            spans += _sentences(text, block_start, position, language)
            block_start = position + len(line)
        position += len(line)
    return spans + _sentences(text, block_start, len(text), language)


def word_spans(text: str) -> list[Span]:
    """Spans of the words of a text: runs without white space; of Chinese and Japanese, single characters."""
    return [match.span() for match in _WORD.finditer(text)]


def cut_at_words(text: str, span: Span, max_chars: int) -> list[Span]:
    """Split a span that is longer than `max_chars` into pieces that end at word borders where there are any."""
    pieces: list[Span] = []
    start, end = span
    borders = [start + stop for _, stop in word_spans(text[start:end])] if end - start > max_chars else []
    while end - start > max_chars:
        last = bisect_right(borders, start + max_chars) - 1
        border = borders[last] if last >= 0 and borders[last] > start else start + max_chars
        piece = _trim(text, start, border)
        pieces += [piece] if piece else []
        start = border
    rest = _trim(text, start, end)
    return pieces + ([rest] if rest else [])


def _sentences(text: str, start: int, end: int, language: str) -> list[Span]:
    if not text[start:end].strip():
        return []
    spans: list[Span] = []
    for boundary in get_sentence_boundaries(language, text[start:end]):
        span = _trim(text, start + boundary["start_index"], start + boundary["end_index"])
        spans += cut_at_words(text, span, _MAX_SENTENCE_CHARS) if span else []
    return spans


def _trim(text: str, start: int, end: int) -> Span | None:
    piece = text[start:end]
    stripped = piece.strip()
    if not stripped:
        return None
    start += len(piece) - len(piece.lstrip())
    return start, start + len(stripped)
