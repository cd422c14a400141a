"""Splitting of prose into sentences, and of overlong runs into pieces at word borders.

All spans are half-open character ranges [start, end) into the text, ascending, without white space at their ends.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from sentencex import get_sentence_boundaries

Span = tuple[int, int]

# where a script puts no spaces between words, each of its characters counts as one
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_INDENTATION = re.compile(r"^(?:\ \ |\ *\t)[ \t]*\Z", re.MULTILINE)
_MAX_SENTENCE_CHARS, _PIECE_CHARS = 1000, 250  # longer sentences are cut into pieces
_AT_ONCE = 4000  # characters per call: the time of the splitter is quadratic where no space follows a full stop
# the splitter fails on spaces other than U+0020 and on lone surrogates; the replacements do not move boundaries
_PLAIN = {
    **dict.fromkeys((0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000), " "),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}


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
        piece = trim(text, start, border)
        pieces += [piece] if piece else []
        start = border
    rest = trim(text, start, end)
    return pieces + ([rest] if rest else [])


def split_sentences(text: str, start: int, end: int, language: str) -> list[Span]:
    """Spans of the sentences of text[start:end]; a single line keeps its indentation."""
    block = text[start:end]
    if not block.strip():
        return []
    spans: list[Span] = []
    for a, b in _boundaries(block if block.isascii() else block.translate(_PLAIN), language):
        span = trim(text, start + a, start + b)
        spans += cut_long(text, span) if span else []
    stands_alone = len(spans) == 1 and "\n" not in text[slice(*spans[0])]
    indentation = _INDENTATION.search(text, start, spans[0][0]) if stands_alone else None
    return [(indentation.start(), spans[0][1])] if indentation else spans


def cut_long(text: str, span: Span) -> list[Span]:
    """The span, or pieces of at most 250 characters if it is longer than 1,000."""
    is_sentence = span[1] - span[0] <= _MAX_SENTENCE_CHARS
    return [span] if is_sentence else cut_at_words(text, span, _PIECE_CHARS)


def _boundaries(block: str, language: str) -> list[Span]:
    """Sentence spans of a block. A long block is split in pieces; each starts at the last, unfinished sentence."""
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


def line_span(text: str, start: int, end: int) -> Span | None:
    """The span of a line without trailing white space, its indentation included; None if it is blank."""
    span = trim(text, start, end)
    return span and (start, span[1])


def trim(text: str, start: int, end: int) -> Span | None:
    """The span without white space at its ends; None if it is blank."""
    piece = text[start:end]
    stripped = piece.strip()
    if not stripped:
        return None
    start += len(piece) - len(piece.lstrip())
    return start, start + len(stripped)
