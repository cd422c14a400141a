"""Where a text may be cut: sentences, lines of code, tables and lists, words; and what the kept pieces read like.

All spans are character ranges into the text, in order, without white space at their ends but for the indentation of a
line that stands alone. This module does not know models or scores.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from sentencex import get_sentence_boundaries

from spec_rag.text.languages import detect_language

Span = tuple[int, int]

# a line that is its own unit: a table row, a list item, a heading, indented or bracketed code, a statement
_LINE_UNIT = re.compile(
    r"\s*(?:\||[-*+•]\s|\d+[.)]\s|\#{1,6}\s|```|~~~)"
    r"|\ {4}\s*\S|\ *\t\s*\S|[^\n]*[;{}]\s*$|[^\n\t]*\t[^\n\t]*\t"
    r"|\ *(?:def|class|function|func|fn)\ [^\n]*[:({]\s*$|\ *(?:import|from)\ [\w.]+(?:\ import\ [^\n]*)?\s*$"
    r"|\ *(?:return|yield|raise|elif|else|try|except|finally|while|with)\b[^\n.!?]*$"
    r"|\ {2,}[\w.]+(?:\(|\ [-+*/]?=\ )",
    re.VERBOSE,
)
_INDENTATION = re.compile(r"^(?:\ \ |\ *\t)[ \t]*\Z", re.MULTILINE)
_FENCE = re.compile(r"\s*(```|~~~)")
# a line of data, if the one before or after it is such a line too: "key": value, key = value, a,b,c
_FIELD = re.compile(r"""\s*(["'][^"']{1,80}["']\s*[:,]|\w[\w ./-]{0,40}[:=]\s*\S|[^,\s][^,]*(,\S[^,]*){2,}$)""")
_SENTENCE_END_INSIDE = re.compile(r"[.!?]\s+\S")
# where a script puts no spaces between words, each of its characters counts as one
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
PASSAGE_CHARS = 2000  # longer documents are read in passages of whole units, so that cost stays linear
_MAX_SENTENCE_CHARS = 1000  # beyond it, it is no sentence: cut at word borders into pieces as long as sentences are
_PIECE_CHARS = 250
_AT_ONCE = 4000  # characters the splitter sees: its work grows with their square where no spaces follow full stops
# spaces that are not U+0020 and lone surrogates stop the splitter; none changes where a sentence ends
_PLAIN = {
    **dict.fromkeys((0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000), " "),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}


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
        language: its ISO 639 code, for abbreviations and ordinals; one that is not known is split as English. "auto"
            detects it.
    """
    if language == "auto":
        language = detect_language(text)
    spans: list[Span] = []
    block_start = 0
    position = 0
    fenced = False
    lines = text.splitlines(keepends=True)
    fields = [bool(_FIELD.match(line.rstrip())) and not _SENTENCE_END_INSIDE.search(line) for line in lines]
    for i, line in enumerate(lines):
        in_data = fields[i] and any(fields[max(i - 1, 0) : i] + fields[i + 1 : i + 2])
        if fenced or in_data or _LINE_UNIT.match(line):
            spans += _sentences(text, block_start, position, language)
            span = _line(text, position, position + len(line))
            spans += _pieces(text, span) if span else []
            block_start = position + len(line)
        elif not line.strip():
            spans += _sentences(text, block_start, position, language)
            block_start = position + len(line)
        fenced ^= bool(_FENCE.match(line))
        position += len(line)
    return spans + _sentences(text, block_start, len(text), language)


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


def word_spans(text: str) -> list[Span]:
    """Spans of the words of a text: runs without white space; of Chinese and Japanese, single characters."""
    return [match.span() for match in _WORD.finditer(text)]


def cut_at_words(text: str, span: Span, max_chars: int) -> list[Span]:
    """Split a span that is longer than `max_chars` into pieces that end at word borders where there are any."""
    start, end = span
    if end - start <= max_chars:
        return [span]
    pieces: list[Span] = []
    borders = [start + stop for _, stop in word_spans(text[start:end])]
    while end - start > max_chars:
        last = bisect_right(borders, start + max_chars) - 1
        border = borders[last] if last >= 0 and borders[last] > start else start + max_chars
        piece = _trim(text, start, border)
        pieces += [piece] if piece else []
        start = border
    rest = _trim(text, start, end)
    return pieces + ([rest] if rest else [])


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


def kept_text(text: str, spans: Sequence[Span], ellipsis: str) -> str:
    """The kept spans of a text, with `ellipsis` where something was dropped between, before or after.

    Between spans stands at least a space, or a line break where one was dropped.
    """
    if not spans:
        return ""
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


def _sentences(text: str, start: int, end: int, language: str) -> list[Span]:
    block = text[start:end]
    if not block.strip():
        return []
    spans: list[Span] = []
    for a, b in _boundaries(block if block.isascii() else block.translate(_PLAIN), language):
        span = _trim(text, start + a, start + b)
        spans += _pieces(text, span) if span else []
    stands_alone = len(spans) == 1 and "\n" not in text[slice(*spans[0])]
    indentation = _INDENTATION.search(text, start, spans[0][0]) if stands_alone else None
    return [(indentation.start(), spans[0][1])] if indentation else spans


def _pieces(text: str, span: Span) -> list[Span]:
    """A sentence or line as it is, or in pieces where it is longer than any sentence."""
    is_sentence = span[1] - span[0] <= _MAX_SENTENCE_CHARS
    return [span] if is_sentence else cut_at_words(text, span, _PIECE_CHARS)


def _boundaries(block: str, language: str) -> list[Span]:
    """Where its sentences stand; a long block is read in pieces, each from the beginning of an unfinished sentence."""
    found: list[Span] = []
    start = 0
    whole = block.isascii() and max(map(len, block.split()), default=0) <= _MAX_SENTENCE_CHARS
    while start < len(block):
        stop = len(block) if whole else min(start + _AT_ONCE, len(block))
        sentences = [(start + a, start + b) for a, b in _split(block[start:stop], language)]
        if stop < len(block) and len(sentences) > 1:
            stop = sentences.pop()[0]
        found += sentences
        start = stop
    return found


def _split(block: str, language: str) -> list[Span]:
    try:
        found = get_sentence_boundaries(language, block)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what Rust code raises for a fault of its own; no Exception
            raise
        return [(0, len(block))]
    return [(boundary["start_index"], boundary["end_index"]) for boundary in found]


def _line(text: str, start: int, end: int) -> Span | None:
    """A line with its indentation, which means something where lines stand alone."""
    span = _trim(text, start, end)
    return span and (start, span[1])


def _trim(text: str, start: int, end: int) -> Span | None:
    piece = text[start:end]
    stripped = piece.strip()
    if not stripped:
        return None
    start += len(piece) - len(piece.lstrip())
    return start, start + len(stripped)
