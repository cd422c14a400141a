"""Lines of text of a PDF with their positions, extracted by PDFium in a process of its own.

PDFium is a C library: a damaged file can make it hang or crash, and it must not be called by two threads at once. In a
process of its own it can be ended, and processor time and memory are limited. The process reads a PDF from standard
input and writes JSON to standard output.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as raw

PASSWORD, DAMAGED, TOO_MANY_PAGES, TOO_SLOW, TOO_LARGE = "password", "damaged", "pages", "seconds", "characters"

_MEMORY_BYTES = 4 * 2**30
_START_SECONDS = 3  # of processor time, for imports
_HYPHEN = "\x02"  # PDFium's mark for a hyphen at the end of a line, which stands for the line break as well
_LINE_ENDS = ("\r", "\n", _HYPHEN)
_LINE_STEP = 0.7  # in font sizes; a word that is lower by more and further to the left is in the next line
_WIDE_GAP = 1.5  # in font sizes; spaces between words of justified text are narrower
_MONOSPACED = ("mono", "courier", "consol", "cmtt", "typewriter", "lmtt", "txtt", "menlo", "sftt", "ectt")
_BOLD = ("bold", "cmbx", "heavy", "black", "semibold", "sfbx", "ecbx")
_SAMPLES = 4
_LARGEST_SIZE = 1000.0


class ExtractionError(Exception):
    """A PDF cannot be read. The arguments are the reason, one of the constants of this module, and details."""


def extract(data: bytes, max_pages: int, max_seconds: float, max_characters: int) -> dict[str, Any]:
    """The title and the lines of each page.

    Returns:
        {"title": str, "pages": [{"width": w, "height": h, "lines": [line, ...]}, ...]}. A line is [text, left, right,
        baseline, font size, monospaced, bold, hyphenated, quarter turns]; lengths are in points, and the origin is the
        lower left corner of the page, seen in the direction of the text.

    Raises:
        ExtractionError: the file cannot be read, or a limit is reached.
    """
    end = time.process_time() + max_seconds
    document = _opened(data)
    try:
        if len(document) > max_pages:
            raise ExtractionError(TOO_MANY_PAGES, str(len(document)))
        pages, characters = [], 0
        for number in range(len(document)):
            pages.append(_page(document, number, end))
            characters += sum(len(line[0]) for line in pages[-1]["lines"])
            if characters > max_characters:
                raise ExtractionError(TOO_LARGE, "")
        title = ""
        with suppress(UnicodeDecodeError):
            title = document.get_metadata_value("Title")
        return {"title": title, "pages": pages}
    except pdfium.PdfiumError as error:
        raise ExtractionError(DAMAGED, str(error)) from error
    finally:
        document.close()


def _opened(data: bytes) -> pdfium.PdfDocument:
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        reason = PASSWORD if raw.FPDF_GetLastError() == raw.FPDF_ERR_PASSWORD else DAMAGED
        raise ExtractionError(reason, str(error)) from error
    if len(document) == 0:
        document.close()
        raise ExtractionError(DAMAGED, "it has no pages")
    return document


def _page(document: pdfium.PdfDocument, number: int, end: float) -> dict[str, Any]:
    if time.process_time() > end:
        raise ExtractionError(TOO_SLOW, "")
    page = document[number]
    text_page = page.get_textpage()
    width, height = page.get_size()
    if page.get_rotation() in (90, 270):
        width, height = height, width
    try:
        reader = _PageReader(text_page, width, height)
        lines = [line for words in reader.lines(end) if (line := reader.line(words))]
    finally:
        text_page.close()
        page.close()
    turned = bool(lines) and sum(line[8] % 2 for line in lines) * 2 > len(lines)
    return {"width": height if turned else width, "height": width if turned else height, "lines": lines}


@dataclass
class _Word:
    """A word with its position; `first` is the index of its first character."""

    text: str
    first: int
    left: float
    right: float
    base: float
    turns: int


class _PageReader:
    """Words and lines of a page."""

    def __init__(self, text_page: pdfium.PdfTextPage, width: float, height: float) -> None:
        self._text_page = text_page
        self._width, self._height = width, height
        self._box = [ctypes.c_double() for _ in range(4)]

    def lines(self, end: float) -> Iterator[list[_Word]]:
        """The words of each line.

        PDFium ends a line by a line break or a hyphen mark, but sometimes leaves both out, so that positions are
        compared, too.
        """
        line: list[_Word] = []
        for word, ends_line in self._words(end):
            if word is not None:
                if line and self._is_below(line[-1], word):
                    yield line
                    line = []
                line.append(word)
            if ends_line and line:
                yield line
                line = []
        if line:
            yield line

    def _words(self, end: float) -> Iterator[tuple[_Word | None, bool]]:
        """Each word, and whether a line ends behind it; None for a line end without a word."""
        characters: list[str] = []
        for index in range(self._text_page.count_chars()):
            if index % 4096 == 0 and time.process_time() > end:
                raise ExtractionError(TOO_SLOW, "")
            character = chr(raw.FPDFText_GetUnicode(self._text_page, index))
            if character == _HYPHEN:
                characters.append(character)
            elif not character.isspace():
                characters.append(character)
                continue
            word = self._word("".join(characters), index - len(characters) + (character == _HYPHEN))
            if word is not None or character in _LINE_ENDS:
                yield word, character in _LINE_ENDS
            characters = []
        word = self._word("".join(characters), self._text_page.count_chars() - len(characters))
        if word is not None:
            yield word, True

    def _word(self, text: str, first: int) -> _Word | None:
        if not text:
            return None
        turns = round(max(raw.FPDFText_GetCharAngle(self._text_page, first), 0.0) / (math.pi / 2)) % 4
        left, right = self._extent(first, turns)
        if len(text) > 1:
            right = max(right, self._extent(first + len(text) - 1 - text.endswith(_HYPHEN), turns)[1])
        x, y = ctypes.c_double(), ctypes.c_double()
        raw.FPDFText_GetCharOrigin(self._text_page, first, x, y)
        base = (y.value, self._width - x.value, self._height - y.value, x.value)[turns]
        return _Word(text, first, left, right, base, turns)

    def _extent(self, index: int, turns: int) -> tuple[float, float]:
        """Where a character begins and ends, in the direction of the text."""
        if not raw.FPDFText_GetCharBox(self._text_page, index, *self._box):
            return 0.0, 0.0
        left, right, bottom, top = (value.value for value in self._box)
        width, height = self._width, self._height
        return ((left, right), (bottom, top), (width - right, width - left), (height - top, height - bottom))[turns]

    def _is_below(self, before: _Word, word: _Word) -> bool:
        """Whether a word is at the beginning of the next line."""
        return word.left < before.left and before.base - word.base > _LINE_STEP * self._size([word])

    def line(self, words: list[_Word]) -> list[Any] | None:
        """A line as `extract` returns it, or None if it is blank."""
        hyphenated = words[-1].text.endswith(_HYPHEN)
        words[-1].text = words[-1].text.removesuffix(_HYPHEN)
        words = [word for word in words if word.text]
        if not words:
            return None
        size = self._size(words)
        pieces = [words[0].text]
        for before, word in pairwise(words):
            pieces += ["\t" if word.left - before.right > _WIDE_GAP * size else " ", word.text]
        base = Counter(round(word.base, 1) for word in words).most_common(1)[0][0]
        numbers = [min(word.left for word in words), max(word.right for word in words), base, size]
        numbers = [round(value, 2) if math.isfinite(value) else 0.0 for value in numbers]
        return [_joined(pieces), *numbers, *self._style(words), hyphenated, words[0].turns]

    def _size(self, words: list[_Word]) -> float:
        """The median font size of some words, scaled as the page scales them."""
        sizes = []
        matrix = raw.FS_MATRIX()
        for word in _sample(words):
            scale = 1.0
            if raw.FPDFText_GetMatrix(self._text_page, word.first, matrix):
                scale = math.hypot(matrix.c, matrix.d) or 1.0
            sizes.append(min(abs(raw.FPDFText_GetFontSize(self._text_page, word.first)) * scale, _LARGEST_SIZE))
        return sorted(sizes)[len(sizes) // 2] or 10.0

    def _style(self, words: list[_Word]) -> tuple[bool, bool]:
        """Whether a line is monospaced, and whether it is bold; both need all sampled words."""
        names = {self._font_name(word.first) for word in _sample(words)}
        monospaced = all(any(part in name for part in _MONOSPACED) for name in names)
        return monospaced, all(any(part in name for part in _BOLD) for name in names)

    def _font_name(self, index: int) -> str:
        buffer, flags = ctypes.create_string_buffer(128), ctypes.c_int()
        raw.FPDFText_GetFontInfo(self._text_page, index, buffer, len(buffer), flags)
        return buffer.value.decode("utf-8", "replace").lower()


def _sample(words: list[_Word]) -> list[_Word]:
    """The first and last word and some between."""
    return [words[0], *words[1 : -1 : 1 + len(words) // _SAMPLES], words[-1]]


def _joined(pieces: list[str]) -> str:
    """The text of a line. Pairs of surrogates become one character; those without a partner are replaced."""
    return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _limit_process(max_seconds: float) -> None:
    """Limit processor time and memory of this process where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    seconds = math.ceil(min(max_seconds, 10**6)) + _START_SECONDS
    for kind, limit in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        _, most = resource.getrlimit(kind)
        if most == resource.RLIM_INFINITY or limit < most:
            with suppress(ValueError, OSError):
                resource.setrlimit(kind, (limit, most))


def main() -> None:
    """Read a PDF from standard input; the limits are the arguments."""
    max_pages, max_seconds, max_characters = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    _limit_process(max_seconds)
    try:
        found = extract(sys.stdin.buffer.read(), max_pages, max_seconds, max_characters)
    except ExtractionError as error:
        found = {"error": error.args}
    except MemoryError:
        found = {"error": (TOO_LARGE, "")}
    sys.stdout.write(json.dumps(found))
