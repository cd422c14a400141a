"""A page of HTML into the text that a reader of it sees: blocks as paragraphs, rows and list items as lines.

The page is read in one pass, whose work grows with its length alone. This module does not know files.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lxml.etree import HTMLParser

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.plain_text import UTF16_MARKS, decoded
from spec_rag.loaders.source import Content, SourceFile

_PIECE = 2**16  # characters between two looks at the clock
_DECLARED = re.compile(rb"""<meta\s[^>]{0,500}?charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w.:-]{1,40})""", re.IGNORECASE)
_DECLARED_IN = 4096
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_SPACE = re.compile(r"\s+")
_UNREAD = frozenset(("script", "style", "noscript", "template", "svg", "iframe", "object", "head"))
_LINES = frozenset(("dd", "dt", "li", "tr"))
_CELLS = frozenset(("td", "th"))
_PARAGRAPHS = re.compile(
    "address|article|aside|blockquote|body|caption|details|div|dl|fieldset|figcaption|figure|footer|form|h[1-6]|header"
    "|hr|main|nav|ol|p|pre|section|summary|table|tbody|tfoot|thead|title|ul"
)


class TooDeepError(ValueError):
    """A page nests its tags deeper than it may."""


def decoded_page(data: bytes) -> str:
    """The page in the encoding of its mark or as it declares, or else UTF-8, or else as browsers guess."""
    marked = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    declared = _DECLARED.search(data, 0, _DECLARED_IN)
    for encoding in (marked, declared and declared.group(1).decode("ascii", "replace"), "utf-8"):
        try:
            if encoding:
                return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("windows-1252", "replace")


def page_text(markup: str, *, max_depth: int, check: Callable[[], None]) -> tuple[str | None, str]:
    """The title of a page, of its <title> or first <h1>, and its text.

    Args:
        markup: the page.
        max_depth: the most tags that may be open at once.
        check: called now and then; what it raises ends the reading.

    Raises:
        TooDeepError: more than `max_depth` tags are open at once.
    """
    if not markup:  # which the parser refuses
        return None, ""
    page = _Page(max_depth)
    parser = HTMLParser(target=page, huge_tree=True)
    markup = markup.replace("\x00", "\ufffd")
    for start in range(0, len(markup), _PIECE):
        check()
        parser.feed(markup[start : start + _PIECE])
    parser.close()
    return page.title, page.text


class _Page:
    """What the parser tells its events to."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._depth = self._unread = self._kept_spaces = 0
        self._pieces: list[str] = []
        self._run: list[str] = []  # text since the last tag, which the parser may give in pieces
        self._titles: dict[str, list[str]] = {}
        self._in_title: str | None = None

    def start(self, tag: str, attributes: object) -> None:
        self._end_run()
        self._depth += 1
        if self._depth > self._max_depth:
            raise TooDeepError
        if tag in ("title", "h1") and tag not in self._titles:
            self._in_title = tag
            self._titles[tag] = []
        self._unread += tag in _UNREAD
        self._kept_spaces += tag == "pre"
        if _PARAGRAPHS.fullmatch(tag):
            self._add("\n\n")
        if tag == "br":
            self._add("\n")

    def end(self, tag: str) -> None:
        self._end_run()
        self._depth -= 1
        if tag in _CELLS:
            self._add(" \t")
        elif tag in _LINES:
            self._add("\n")
        elif _PARAGRAPHS.fullmatch(tag):
            self._add("\n\n")
        if tag == self._in_title:
            self._in_title = None
        self._kept_spaces -= tag == "pre"
        self._unread -= tag in _UNREAD

    def data(self, text: str) -> None:
        self._run.append(text)

    def close(self) -> None:
        self._end_run()

    @property
    def title(self) -> str | None:
        found = (" ".join("".join(self._titles.get(tag, ())).split()) for tag in ("title", "h1"))
        return next((title for title in found if title), None)

    @property
    def text(self) -> str:
        lines = "".join(self._pieces).replace("\xa0", " ").split("\n")
        text = "\n".join(line.rstrip(" \t") for line in lines)
        text = re.sub(r"\n (?! )", "\n", text)  # the space between two blocks; deeper indentation comes from <pre>
        return re.sub(r"\n{3,}", "\n\n", text).strip()

    def _end_run(self) -> None:
        text, self._run = "".join(self._run), []
        if not text:
            return
        if self._in_title:
            self._titles[self._in_title].append(text)
        self._add(text if self._kept_spaces else _SPACE.sub(" ", text))

    def _add(self, text: str) -> None:
        if not self._unread:
            self._pieces.append(text)


def read(source: SourceFile) -> Content:
    """The content of a page.

    Raises:
        UnreadableFileError: it is binary, nests its tags too deeply or takes too long.
    """
    data = source.data
    if source.encoding is None and b"\x00" in data and not data.startswith(UTF16_MARKS):
        raise UnreadableFileError(f"{source.path} is a binary file, not HTML.")
    markup = decoded(source.path, data, source.encoding) if source.encoding else decoded_page(data)
    try:
        title, text = page_text(markup, max_depth=source.limits.max_depth, check=source.check)
    except TooDeepError as error:
        raise UnreadableFileError(
            f"{source.path} has more than {source.limits.max_depth} tags open at once: close them, or raise "
            "max_depth of ReadLimits (--max-html-depth)."
        ) from error
    return Content(text, title)
