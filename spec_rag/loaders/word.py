"""Word documents (.docx): paragraphs with their list numbers, tables row by row, and notes.

The XML is walked directly: python-docx's `text` leaves out content controls, inserted text of tracked changes, text
boxes and notes. Deleted text, headers and footers are left out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import docx

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.archives import Archive
from spec_rag.loaders.source import Content, SourceFile
from spec_rag.loaders.word_numbering import Numbering

_KIND = "Word document"
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_TEXT_BOX = f"{_W}txbxContent"
_LEFT_OUT = frozenset((f"{_W}del", f"{_W}moveFrom", f"{_W}rPr", f"{_W}pPr", f"{_W}instrText", _FALLBACK, _TEXT_BOX))
_CHARACTERS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_NOTES = ("footnotes", "endnotes")


def read(source: SourceFile) -> Content:
    """The text of a document, with the title of its properties.

    Raises:
        UnreadableFileError: it is damaged or too large, or takes too long.
    """
    archive = Archive(source, _KIND)
    try:
        document = docx.Document(io.BytesIO(source.data))
        reader = _Reader(source, Numbering(document), _Notes(archive))
        blocks = [block for block in reader.blocks(document.element.body) if block.strip()]
        title = " ".join((document.core_properties.title or "").split())
    except UnreadableFileError:
        raise
    except Exception as error:  # a damaged file makes its parsers raise whatever they stumble over
        raise source.damaged(_KIND, error) from error
    return Content(_joined([*blocks, *reader.notes.texts()]), title or None, {"title": title} if title else {})


def _joined(blocks: list[str]) -> str:
    """Blocks separated by blank lines; the items of a list by line ends."""
    pieces = blocks[:1]
    for before, block in pairwise(blocks):
        pieces += ["\n" if isinstance(before, _Item) and isinstance(block, _Item) else "\n\n", block]
    return "".join(pieces)


class _Item(str):
    """A paragraph that is a list item."""


class _Notes:
    """Footnotes and endnotes, in the order in which the text refers to them."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._elements: dict[tuple[str, str], Any] | None = None
        self._numbers: dict[tuple[str, str], int] = {}
        self._reader: _Reader | None = None

    def mark(self, kind: str, identity: str, reader: _Reader) -> str:
        """The mark of a note in the text."""
        if self._elements is None:
            self._elements = dict(self._read())
        if (kind, identity) not in self._elements:
            return ""
        self._reader = reader
        number = self._numbers.setdefault((kind, identity), len(self._numbers) + 1)
        return f"[{number}]"

    def texts(self) -> Iterator[str]:
        """Each note behind its mark."""
        for key, number in list(self._numbers.items()):
            assert self._elements is not None
            assert self._reader is not None
            text = " ".join(" ".join(self._reader.blocks(self._elements[key])).split())
            if text:
                yield f"[{number}] {text}"

    def _read(self) -> Iterator[tuple[tuple[str, str], Any]]:
        for kind in _NOTES:
            root = self._archive.xml_or_none(f"word/{kind}.xml")
            for note in [] if root is None else root.iter(f"{_W}{kind[:-1]}"):
                if note.get(f"{_W}type") is None:  # others are separators
                    yield (kind, note.get(f"{_W}id") or ""), note


class _Reader:
    """Text of the elements of a document."""

    def __init__(self, source: SourceFile, numbering: Numbering, notes: _Notes) -> None:
        self._source = source
        self._numbering = numbering
        self.notes = notes

    def blocks(self, parent: Any) -> Iterator[str]:
        """Paragraphs and tables inside an element."""
        for element in parent:
            self._source.check()
            if element.tag == f"{_W}p":
                yield from self._paragraph(element)
            elif element.tag == f"{_W}tbl":
                yield self._table(element)
            elif isinstance(element.tag, str) and element.tag not in _LEFT_OUT:  # content controls and the like
                yield from self.blocks(element)

    def _paragraph(self, paragraph: Any) -> Iterator[str]:
        text = "".join(self._runs(paragraph)).strip(" \n")
        label, is_item = self._numbering.label(paragraph)
        if text:
            labelled = f"{label} {text}" if label else text
            yield _Item(labelled) if is_item else labelled
        for box in paragraph.iter(_TEXT_BOX):
            around = list(box.iterancestors(f"{_W}p", _FALLBACK))
            if around and around[0] is paragraph:  # others are boxes inside of boxes, or repeat a box for old programs
                yield from self.blocks(box)

    def _runs(self, parent: Any) -> Iterator[str]:
        for element in parent:
            tag = element.tag
            if tag in (f"{_W}t", _MATH_TEXT):
                yield element.text or ""
            elif tag in _CHARACTERS:
                yield "" if tag == f"{_W}br" and element.get(f"{_W}type") == "page" else _CHARACTERS[tag]
            elif tag in (f"{_W}footnoteReference", f"{_W}endnoteReference"):
                yield self.notes.mark(tag[len(_W) : -len("Reference")] + "s", element.get(f"{_W}id") or "", self)
            elif isinstance(tag, str) and tag not in _LEFT_OUT:
                yield from self._runs(element)

    def _table(self, table: Any) -> str:
        """Rows as lines. A cell that is merged over columns or rows is given once, where it begins."""
        rows = []
        for row in _children(table, "tr"):
            cells = ["" if _goes_on(cell) else self._cell(cell) for cell in _children(row, "tc")]
            while cells and not cells[-1]:
                cells.pop()
            rows.append(" \t".join(cells))
        return "\n".join(row for row in rows if row.strip())

    def _cell(self, cell: Any) -> str:
        blocks = [block for block in self.blocks(cell) if block.strip()]
        return "\n".join(blocks)


def _children(parent: Any, name: str) -> Iterator[Any]:
    """Children of that name, inside content controls and tracked changes as well."""
    for element in parent:
        if element.tag == f"{_W}{name}":
            yield element
        elif element.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml"):
            yield from _children(element, name)


def _goes_on(cell: Any) -> bool:
    """Whether a cell continues the one above it."""
    merged = cell.find(f"{_W}tcPr/{_W}vMerge")
    return merged is not None and merged.get(f"{_W}val", "continue") == "continue"
