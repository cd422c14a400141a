"""Raw HTML: headings, list items and table rows by their tags."""

from __future__ import annotations

import re
from html import unescape

from spec_rag.text.structure.outline import Builder

_TAG = re.compile(r"<(?P<close>/?)(?P<name>[a-zA-Z][a-zA-Z0-9]{0,15})\b[^<>]{0,1000}>|<!--.{0,2000}?-->", re.DOTALL)
_BLOCK = re.compile(
    "h[1-6]|p|li|tr|table|thead|tbody|tfoot|ul|ol|dl|dt|dd|div|section|article|main|body|html|head|title|header|footer|nav|aside"
    "|blockquote|pre|figure|figcaption|br|hr|form|caption|script|style|meta|link|address",
    re.IGNORECASE,
)
_HEADING = re.compile("h[1-6]")
_SKIPPED = frozenset(("script", "style", "nav", "footer", "head", "aside", "form"))
_LEAST_BLOCKS = 3


def is_html(text: str) -> bool:
    """Whether a text starts with a tag and has several block tags."""
    if text.lstrip()[:1] != "<":
        return False
    found = 0
    for tag in _TAG.finditer(text):
        found += bool(tag["close"] and _BLOCK.fullmatch(tag["name"]))
        if found >= _LEAST_BLOCKS:
            return True
    return False


def read_html(builder: Builder) -> None:
    """Add the blocks of the page. Navigation and scripts are kept only by none of the units: they become marks."""
    _Page(builder).read()


class _Page:
    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._skipped = 0
        self._lists: list[list[int]] = []
        self._header: list[int] = []
        self._table = -1
        self._row: tuple[int, bool] | None = None  # start of the open row and whether it has header cells
        self._level = 0

    def read(self) -> None:
        """Add all blocks."""
        start = 0
        for tag in _TAG.finditer(self._builder.text):
            name = (tag["name"] or "").casefold()
            if self._row and name == "th":
                self._row = (self._row[0], True)
            if not _BLOCK.fullmatch(name):
                continue
            is_heading, closes = bool(_HEADING.fullmatch(name)), bool(tag["close"])
            if self._row is None or name in ("tr", "table"):
                self._add(start, tag.end() if closes and (is_heading or name == "tr") else tag.start())
                start = tag.start() if is_heading and not closes else tag.end()
            self._note(name, closes, tag)
        self._add(start, len(self._builder.text))

    def _note(self, name: str, closes: bool, tag: re.Match[str]) -> None:
        if name in _SKIPPED:
            self._skipped = max(self._skipped + (-1 if closes else 1), 0)
        elif name == "table":
            self._header, self._table, self._row = [], self._builder.add_record(-1), None
        elif name == "tr":
            self._row = None if closes else (tag.start(), False)
        elif name in ("ul", "ol"):
            if closes and self._lists:
                self._lists.pop()
            elif not closes:
                self._lists.append(self._builder.lead_needs())
        elif _HEADING.fullmatch(name):
            self._level = 0 if closes else int(name[1])

    def _add(self, start: int, end: int) -> None:
        builder = self._builder
        bare = unescape(_TAG.sub(" ", builder.text[start:end])).strip()
        if not bare:
            return
        if self._skipped:
            builder.add(start, end, "mark")
        elif self._level:
            builder.add_heading(start, end, self._level)
        elif self._row:
            first, is_header = self._row
            if is_header and not self._header:
                self._header = list(builder.add(first, end, "header", builder.lead_needs()))
            else:
                cells = [one for one in (unescape(c).strip() for c in _TAG.split(builder.text[first:end])[0::3]) if one]
                needs = self._header or builder.context
                builder.add(first, end, "row", needs, builder.add_record(self._table, *cells))
        else:
            builder.add_sentences(start, end, self._lists[-1] if self._lists else builder.context)
