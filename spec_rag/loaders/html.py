"""HTML pages: the text that a reader sees, blocks as paragraphs, rows and list items as lines.

What surrounds the text is left out: navigation, side notes, dialogs, and the header and footer of the page. The page is
read in one pass, whose time is linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lxml.etree import HTMLParser

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.plain_text import UTF16_MARKS, decoded
from spec_rag.loaders.source import Content, SourceFile

_PIECE = 2**16  # characters between two calls of `check`
_DECLARED = re.compile(rb"""<meta\s[^>]{0,500}?charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w.:-]{1,40})""", re.IGNORECASE)
_DECLARED_IN_XML = re.compile(rb"""<\?xml\s[^>]{0,200}?encoding\s{0,9}=\s{0,9}["']([\w.:-]{1,40})""", re.IGNORECASE)
_DECLARED_IN = 4096
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_SPACE = re.compile(r"\s+")
_UNREAD = frozenset(("script", "style", "noscript", "template", "svg", "iframe", "object", "head"))
_NAVIGATION_ROLES = frozenset(
    ("navigation", "banner", "contentinfo", "search", "complementary", "dialog", "alertdialog", "menu", "menubar")
)
_NOTE = re.compile(r"(foot|end|side)?notes?|admonition|topic|warning|callout|tip|caution", re.IGNORECASE)
_SECTIONS = frozenset(("article", "main", "section"))  # headers and footers inside of them are part of the text
_LINES = frozenset(("dd", "dt", "li", "tr"))
_CELLS = frozenset(("td", "th"))
_PARAGRAPHS = re.compile(
    "address|article|aside|blockquote|body|caption|details|div|dl|fieldset|figcaption|figure|footer|form|h[1-6]|header"
    "|hr|main|nav|ol|p|pre|section|summary|table|tbody|tfoot|thead|title|ul"
)


class TooDeepError(ValueError):
    """A page nests its tags deeper than the limit."""


def read(source: SourceFile) -> Content:
    """The content of a page, with its <title> or first <h1> as the title.

    Raises:
        UnreadableFileError: it is binary, nests its tags too deeply or takes too long.
    """
    data = source.data
    if source.encoding is None and b"\x00" in data and not data.startswith(UTF16_MARKS):
        raise UnreadableFileError(f"{source.path} is a binary file, not HTML.")
    markup = decoded(source.path, data, source.encoding) if source.encoding else decoded_page(data)
    title, text = read_page(source, markup)
    if not text:  # a page that is nothing but a header or a menu
        title, text = read_page(source, markup, with_navigation=True)
    return Content(text, title)


def read_page(source: SourceFile, markup: str, *, with_navigation: bool = False) -> tuple[str | None, str]:
    """Title and text of markup that comes from a file.

    Raises:
        UnreadableFileError: it nests its tags too deeply or takes too long.
    """
    limit = source.limits.max_depth
    try:
        return page_text(markup, max_depth=limit, check=source.check, with_navigation=with_navigation)
    except TooDeepError as error:
        raise UnreadableFileError(
            f"{source.path} has more than {limit} tags open at once: close them, or raise max_depth of ReadLimits "
            "(--max-html-depth)."
        ) from error


def decoded_page(data: bytes) -> str:
    """The page in the encoding of its byte order mark or declaration, else UTF-8, else Windows-1252 as in browsers."""
    marked = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    declared = _DECLARED.search(data, 0, _DECLARED_IN) or _DECLARED_IN_XML.match(data.lstrip()[:_DECLARED_IN])
    for encoding in (marked, declared and declared.group(1).decode("ascii", "replace"), "utf-8"):
        try:
            if encoding:
                return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("windows-1252", "replace")


def page_text(
    markup: str, *, max_depth: int, check: Callable[[], None], with_navigation: bool = False
) -> tuple[str | None, str]:
    """The title of a page, of its <title> or first <h1>, and its text.

    Args:
        markup: the page.
        max_depth: limit on the number of tags that are open at once.
        check: called between pieces; what it raises ends the reading.
        with_navigation: whether navigation, side notes, and the header and footer of the page are part of the text.

    Raises:
        TooDeepError: more than `max_depth` tags are open at once.
    """
    if not markup:  # the parser refuses it
        return None, ""
    page = _Page(max_depth, with_navigation)
    parser = HTMLParser(target=page, huge_tree=True)
    markup = markup.replace("\x00", "\ufffd")
    for start in range(0, len(markup), _PIECE):
        check()
        parser.feed(markup[start : start + _PIECE])
    parser.close()
    return page.title, page.text


@dataclass
class _Header:
    """The header of a page: site name and links, or the title, author and date of a document.

    Attributes:
        depth: number of tags that are open around it.
        start: number of pieces of text before it.
    """

    depth: int
    start: int
    has_heading: bool = False
    has_links: bool = False

    def note(self, tag: str) -> None:
        """Take note of a tag inside of it."""
        self.has_heading |= tag == "h1"
        self.has_links |= tag in ("a", "nav", "form", "button")

    @property
    def is_title_block(self) -> bool:
        """Whether it is part of the text."""
        return self.has_heading and not self.has_links


class _Page:
    """Target of the parser's events."""

    def __init__(self, max_depth: int, with_navigation: bool) -> None:
        self._max_depth = max_depth
        self._with_navigation = with_navigation
        self._open: list[bool] = []  # for each open tag whether its content is left out
        self._unread = self._kept_spaces = self._sections = 0
        self._pieces: list[str] = []
        self._run: list[str] = []  # text since the last tag, which the parser may give in pieces
        self._titles: dict[str, list[str]] = {}
        self._in_title: str | None = None
        self._header: _Header | None = None  # the header of the page while it is open

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._end_run()
        if len(self._open) >= self._max_depth:
            raise TooDeepError
        if tag in ("title", "h1") and tag not in self._titles:
            self._in_title = tag
            self._titles[tag] = []
        if self._header:
            self._header.note(tag)
        elif tag == "header" and not (self._unread or self._sections or self._with_navigation):
            self._header = _Header(len(self._open), len(self._pieces))
        unread = tag in _UNREAD or "hidden" in attributes or self._is_navigation(tag, attributes)
        if _PARAGRAPHS.fullmatch(tag):
            self._add("\n\n")
        if tag == "br":
            self._add("\n")
        self._open.append(unread)
        self._unread += unread
        self._sections += tag in _SECTIONS
        self._kept_spaces += tag == "pre"

    def end(self, tag: str) -> None:
        self._end_run()
        if tag == self._in_title:
            self._in_title = None
        self._kept_spaces -= tag == "pre"
        self._sections -= tag in _SECTIONS
        if self._open:
            self._unread -= self._open.pop()
        if self._header and len(self._open) == self._header.depth:
            if not self._header.is_title_block:
                del self._pieces[self._header.start :]
            self._header = None
        if tag in _CELLS:
            self._add(" \t")
        elif tag in _LINES:
            self._add("\n")
        elif _PARAGRAPHS.fullmatch(tag):
            self._add("\n\n")

    def data(self, text: str) -> None:
        self._run.append(text)

    def close(self) -> None:
        self._end_run()

    @property
    def title(self) -> str | None:
        """The <title>, or else the first <h1>."""
        found = (" ".join("".join(self._titles.get(tag, ())).split()) for tag in ("title", "h1"))
        return next((title for title in found if title), None)

    @property
    def text(self) -> str:
        """The text of the page."""
        lines = "".join(self._pieces).replace("\xa0", " ").split("\n")
        text = "\n".join(line.rstrip(" \t") for line in lines)
        text = re.sub(r"\n (?! )", "\n", text)  # the space between two blocks; deeper indentation comes from <pre>
        return re.sub(r"\n{3,}", "\n\n", text).strip()

    def _is_navigation(self, tag: str, attributes: Mapping[str, str]) -> bool:
        if self._with_navigation:
            return False
        role = attributes.get("role", "").strip().lower()
        if tag == "aside":
            is_note = role.startswith("doc-") or any(map(_NOTE.fullmatch, attributes.get("class", "").split()))
            return not is_note
        return tag == "nav" or role in _NAVIGATION_ROLES or (tag == "footer" and not self._sections)

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
