"""Lines of a PDF to paragraphs: lines are joined, words that were hyphenated at a line end are joined.

A paragraph ends where the next line is indented, stands further away, has another size or style, begins a list item, or
where the line was broken although the next word would have fit. Only positions decide; there is no model of languages.
"""

from __future__ import annotations

import re
import statistics
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace

from spec_rag.loaders.pdf_furniture import without_furniture
from spec_rag.loaders.pdf_lines import Line, Page

__all__ = ["Line", "Page", "page_texts"]

_SPACES = re.compile(r" *\t[ \t]*| {2,}")
_LIGATURES = {ord(c): unicodedata.normalize("NFKC", c) for c in "\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06"}
_REPLACED = {
    **_LIGATURES,
    **dict.fromkeys((0xF0B7, 0xF0A7, 0xF06E, 0xF0D8, 0x25CF), "•"),  # bullets of symbol fonts
    0xA0: " ",
    0xAD: None,
    0xFFFE: None,
    0xFFFF: None,
    **dict.fromkeys([*range(9), *range(11, 32), 127]),
}
_ACCENTS = dict(zip("´`¨ˆ˜ˇ¸˚", "\u0301\u0300\u0308\u0302\u0303\u030c\u0327\u030a", strict=True))
_ACCENTED = re.compile("([´¨ˆ˜ˇ¸˚])([A-Za-zı])")
_ITEM = re.compile(r"([•◦▪‣·–—*-]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|\(?[ivx]{1,5}[.)]|\[[^\[\]\s]{1,12}\])(?= |\t|$)")
_NUMBERED_HEADING = re.compile(
    r"(?:\d{1,3}(?:\.\d{1,3})*\.?|[A-Z]\.\d{1,3}(?:\.\d{1,3})*|(?:Chapter|Section|Appendix|Part) \w{1,6}[.:]?)"
    r"(?:[ \t]+\S|$)"
)
_LABEL = re.compile(rf"{_ITEM.pattern}|\d{{1,3}}(?:\.\d{{1,3}})+\.?|[A-Z]\.\d{{1,3}}(?:\.\d{{1,3}})*")
_SENTENCE_END = re.compile(r"[.!?:;…。！？]['\"”’»)\]]*\s*$")
_WORD_BEFORE = re.compile(r"([^\W\d_]+)$")
_WORD_AFTER = re.compile(r"([^\W\d_]+)")
_COMPOUND = re.compile(r"(?<![^\W\d_])[^\W\d_]+(?:-[^\W\d_]+)+")
_WORD = re.compile(r"[^\W\d_]+")
_ADDRESS = re.compile(r"(?:https?://|www\.)\S*[/\-_.?&=#%]$")
_NO_SPACES = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u303f]")
_LABEL_CHARACTERS = 3
_LONGEST_WORD = 300  # characters before a line end that are looked at


def page_texts(pages: Sequence[Page], check: Callable[[], None]) -> tuple[str, list[int]]:
    """The text of a document.

    Args:
        pages: the pages; lines are in reading order.
        check: called for each page; what it raises ends the work.

    Returns:
        The text, and the index of the first character of each page.
    """
    cleaned = [_cleaned(page) for page in pages]
    check()
    cleaned = without_furniture(cleaned)
    check()
    text = _Text(_Vocabulary(cleaned))
    last: Line | None = None
    for page in cleaned:
        check()
        text.begin_page()
        last = _add_page(text, page, last, check)
    return text.text, text.page_starts


def _cleaned(page: Page) -> Page:
    lines = []
    for line in page.lines:
        text = _SPACES.sub(
            lambda found: " \t" if "\t" in found.group() else " ", line.text.translate(_REPLACED)
        ).strip()
        text = _with_accents(text)
        head, gap, tail = text.partition(" \t")
        if gap and _LABEL.fullmatch(head) and tail[:1].isalpha():  # the gap behind a label does not separate cells
            text = f"{head} {tail}"
        if text:
            lines.append(replace(line, text=text))
    return replace(page, lines=lines)


def _with_accents(text: str) -> str:
    """Accents that old TeX fonts draw before their letter, as one character with it."""

    def composed(found: re.Match[str]) -> str:
        letter = "i" if found.group(2) == "ı" else found.group(2)
        whole = unicodedata.normalize("NFC", letter + _ACCENTS[found.group(1)])
        return whole if len(whole) == 1 else found.group()

    return _ACCENTED.sub(composed, text)


def _add_page(text: _Text, page: Page, last: Line | None, check: Callable[[], None]) -> Line | None:
    """Add the lines of a page. `last` is the last line before it; returns the last line of the page."""
    spacing = _spacing(page)
    paragraph: list[Line] = []
    for line in page.lines:
        check()
        if not paragraph:
            border = _border_between_pages(last, line)
        else:
            border = _border(paragraph, line, spacing, page.right_edge(line))
        text.add(line, border, paragraph[-1] if paragraph else last)
        paragraph = [line] if border else [*paragraph[-2:], line] if len(paragraph) > 2 else [*paragraph, line]
    return page.lines[-1] if page.lines else last


def _border_between_pages(last: Line | None, line: Line) -> str:
    if last is None or last.is_row or line.is_row or last.monospaced or line.monospaced:
        return "\n\n"
    if last.hyphenated and line.text[0].islower():
        return ""
    goes_on = line.text[0].islower() and not _SENTENCE_END.search(last.text) and last.has_size_of(line)
    return "" if goes_on else "\n\n"


def _spacing(page: Page) -> dict[float, float]:
    """The usual distance of baselines for each font size, rounded."""
    gaps: dict[float, list[float]] = {}
    for above, below in zip(page.lines, page.lines[1:], strict=False):
        gap = above.base - below.base
        if above.has_size_of(below) and 0.7 * above.size < gap < 2.5 * above.size:
            gaps.setdefault(round(above.size), []).append(gap)
    return {size: statistics.quantiles(found, n=4)[0] if len(found) > 1 else found[0] for size, found in gaps.items()}


def _border(paragraph: Sequence[Line], line: Line, spacing: dict[float, float], right_edge: float) -> str:
    """What stands between a paragraph so far and the next line: nothing, a line break or a blank line."""
    above = paragraph[-1]
    if above.turns != line.turns:
        return "\n\n"
    if above.hyphenated and line.text[0].islower():
        return ""
    gap = above.base - line.base
    if _is_mark(above) and above.size < line.size * 1.02 and abs(gap) < line.size:
        return ""  # the raised number of a footnote
    usual = spacing.get(round(line.size), 1.2 * line.size)
    if gap < -0.5 * line.size or gap > 3 * usual:  # another column, or far below
        goes_on = above.hyphenated or (line.text[0].islower() and not _SENTENCE_END.search(above.text))
        same = above.has_size_of(line) and not above.is_row and not line.is_row
        return "" if gap < 0 and goes_on and same else "\n\n"
    if abs(gap) < 0.3 * line.size and line.left > above.right - 1:
        return ""  # the same line goes on
    if not above.has_size_of(line) and not _is_mark(line):
        return "\n\n"
    if above.monospaced and line.monospaced:
        return "\n" if gap < 1.6 * usual else "\n\n"
    if above.is_row or line.is_row:
        return "\n" if above.is_row and line.is_row else "\n\n"
    if above.hyphenated:
        return ""
    if above.monospaced != line.monospaced and (above.monospaced or line.monospaced) and _stands_alone(above, line):
        return "\n\n"
    if gap > 1.3 * usual:
        return "\n" if _ITEM.match(line.text) and _ITEM.match(paragraph[0].text) else "\n\n"
    return _border_of_close_lines(paragraph, line, right_edge)


def _border_of_close_lines(paragraph: Sequence[Line], line: Line, right_edge: float) -> str:
    above, first = paragraph[-1], paragraph[0]
    step = line.left - above.left
    tolerance = 0.4 * line.size
    broken = _was_broken_early(above, line, right_edge)
    ended = bool(_SENTENCE_END.search(above.text))
    if _begins_item(first, above, line, broken or ended):
        return "\n"
    if above.bold and not line.bold and (broken or _NUMBERED_HEADING.match(above.text)):
        return "\n\n"
    if line.bold and not above.bold and (ended or broken):
        return "\n\n"
    if _NUMBERED_HEADING.match(line.text) and broken and "." in line.text[:8]:
        return "\n\n"
    hangs = _ITEM.match(first.text) is not None
    if step > tolerance and not (hangs and len(paragraph) == 1) and (ended or broken):
        return "\n\n"
    if step < -tolerance and len(paragraph) > 1 and (ended or broken):
        return "\n\n"
    if broken:
        return "\n\n" if ended and line.text[0].isupper() else "\n"
    return ""


def _begins_item(first: Line, above: Line, line: Line, may_begin: bool) -> bool:
    """Whether a line begins a list item, and not by chance with something like a number."""
    label = _ITEM.match(line.text)
    if label is None:
        return False
    tolerance = 0.4 * line.size
    label_above = _ITEM.match(first.text)
    if label_above is None:
        return may_begin or line.left > above.left + tolerance
    same_kind = label.group(1)[-1] == label_above.group(1)[-1]
    return line.left < first.left + tolerance if same_kind else may_begin and abs(line.left - first.left) > tolerance


def _was_broken_early(above: Line, line: Line, right_edge: float) -> bool:
    """Whether the first word of a line would have fit on the line above it."""
    first = line.text.split(" ", 1)[0]
    width = (line.right - line.left) * (len(first) + 1) / max(len(line.text), 1)
    return above.right + width + 0.5 * line.size < right_edge


def _stands_alone(above: Line, line: Line) -> bool:
    return not line.text[0].islower() and bool(_SENTENCE_END.search(above.text))


def _is_mark(line: Line) -> bool:
    return len(line.text) <= _LABEL_CHARACTERS


class _Vocabulary:
    """The words of a document, to decide whether a hyphen at a line end belongs to the word."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._words: set[str] = set()
        self._compounds: set[str] = set()
        for page in pages:
            for line in page.lines:
                text = line.text.lower()
                self._words.update(_WORD.findall(text))
                self._compounds.update(_COMPOUND.findall(text))

    def joins(self, left: str, right: str) -> bool:
        """Whether two parts of a word are written without a hyphen."""
        if not right[:1].islower() or left[-1:].isdigit():
            return False
        left, right = left.lower(), right.lower()
        return f"{left}-{right}" not in self._compounds or f"{left}{right}" in self._words


class _Text:
    """Text that is put together line by line."""

    def __init__(self, words: _Vocabulary) -> None:
        self._words = words
        self._pieces: list[str] = []
        self._length = 0
        self._starts: list[int] = []
        self._waiting: list[int] = []  # pages whose first line has not come

    def begin_page(self) -> None:
        """Begin a page, which starts with its first line."""
        self._starts.append(-1)
        self._waiting.append(len(self._starts) - 1)

    def add(self, line: Line, border: str, above: Line | None) -> None:
        """Add a line behind a border; an empty border joins it to the line above."""
        if not self._pieces:
            border = ""
        elif not border:
            assert above is not None
            border = self._between(above, line)
        self._put(border)
        for page in self._waiting:
            self._starts[page] = self._length
        self._waiting.clear()
        self._put(line.text)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self._pieces)

    @property
    def page_starts(self) -> list[int]:
        """The index of the first character of each page; of pages without text, that of the next one."""
        return [self._length if start < 0 else start for start in self._starts]

    def _put(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self._length += len(piece)

    def _between(self, above: Line, line: Line) -> str:
        if above.hyphenated:
            left, right = _WORD_BEFORE.search(above.text[-_LONGEST_WORD:]), _WORD_AFTER.match(line.text)
            joins = left and right and self._words.joins(left.group(1), right.group(1))
            return "" if joins else "-"
        if _ADDRESS.search(above.text[-_LONGEST_WORD:].rsplit(" ", 1)[-1]):
            return ""
        if above.text.endswith("-") and line.text[0].isalnum():
            return ""
        if _NO_SPACES.match(above.text[-1]) and _NO_SPACES.match(line.text[0]):
            return ""
        return " "
