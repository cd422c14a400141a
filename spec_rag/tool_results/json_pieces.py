"""Pieces of JSON: items of arrays, long objects in objects, sentences of long strings. Any selection is valid JSON."""

from __future__ import annotations

import json
import re

from spec_rag.tool_results.lines import Lines
from spec_rag.tool_results.pieces import Piece

_LONG = 400  # characters of a value of an object that may be left out, or of a string that may be shortened
_SPACE = re.compile(r"[ \t\n\r]*")
# a sentence or a line of a string as it is spelled in JSON, with the white space after it
_SENTENCE = re.compile(
    r"(?:[^\\.!?]++|\\[^n]|[.!?](?!\s|\\n|$))*+(?:[.!?]++(?=\s|\\n|$)|(?=\\n)|$)(?:\s|\\[nrt])*+", re.DOTALL
)
_STRING_OR_SPACE = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')


def json_pieces(text: str, start: int = 0) -> list[Piece]:
    """The pieces of the JSON value that begins at an offset."""
    walker = _Walker(text)
    walker.value(_skip(text, start), -1)
    return walker.pieces


def json_lines_pieces(lines: Lines) -> list[Piece]:
    """Pieces of JSON lines: all lines but the first, and what is inside them. Marks are JSON strings."""
    walker = _Walker(lines.text)
    seen = False
    for i, body in enumerate(lines.bodies):
        if not body.strip():
            continue
        start = lines.starts[i] + lines.text[lines.starts[i] : lines.starts[i + 1]].index(body.strip()[0])
        parent = -1
        if seen:
            walker.pieces.append(Piece(start, start + len(body.strip()), "item", "lines"))
            parent = len(walker.pieces) - 1
        walker.value(start, parent)
        seen = True
    return walker.pieces


def minified(text: str) -> str:
    """JSON without white space between its values; the spelling of the values stays."""
    return _STRING_OR_SPACE.sub(lambda match: match.group(1) or "", text)


class _Walker:
    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = json.JSONDecoder(parse_int=str, parse_float=str)
        self.pieces: list[Piece] = []

    def value(self, start: int, parent: int) -> int:
        """Add the pieces of a value; returns where it ends."""
        opening = self._text[start]
        if opening == "[":
            return self._array(start, parent)
        if opening == "{":
            return self._object(start, parent)
        end = self._decoder.raw_decode(self._text, start)[1]
        if opening == '"' and end - start > _LONG:
            self._string(start + 1, end - 1, parent)
        return end

    def _array(self, start: int, parent: int) -> int:
        place = _skip(self._text, start + 1)
        while self._text[place] != "]":
            own = len(self.pieces)
            self.pieces.append(Piece(place, place, "item", "items", parent))
            end = self.value(place, own)
            self.pieces[own] = Piece(place, end, "item", "items", parent)
            place = self._next(end)
        return place + 1

    def _object(self, start: int, parent: int) -> int:
        place = _skip(self._text, start + 1)
        while self._text[place] != "}":
            place = self._decoder.raw_decode(self._text, place)[1]
            place = _skip(self._text, _skip(self._text, place) + 1)
            own = len(self.pieces)
            is_object = self._text[place] == "{"
            if is_object:
                self.pieces.append(Piece(place, place, "item", "values", parent))
            end = self.value(place, own if is_object else parent)
            if is_object:
                self._settle(own, Piece(place, end, "item", "values", parent))
            place = self._next(end)
        return place + 1

    def _settle(self, own: int, piece: Piece) -> None:
        """Keep the piece of an object inside an object where it is long; else its pieces belong to its parent."""
        if piece.end - piece.start > _LONG:
            self.pieces[own] = piece
            return
        del self.pieces[own]
        for i in range(own, len(self.pieces)):
            inner = self.pieces[i]
            above = piece.parent if inner.parent == own else inner.parent - 1
            self.pieces[i] = Piece(inner.start, inner.end, inner.style, inner.what, above)

    def _string(self, start: int, end: int, parent: int) -> None:
        for match in _SENTENCE.finditer(self._text, start, end):
            if match.end() > match.start():
                self.pieces.append(Piece(match.start(), match.end(), "string", "characters", parent))

    def _next(self, end: int) -> int:
        place = _skip(self._text, end)
        return _skip(self._text, place + 1) if self._text[place] == "," else place


def _skip(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    assert found is not None
    return found.end()
