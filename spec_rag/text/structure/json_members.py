"""JSON: members of objects as units, which need the keys above them and the member that names their object."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from spec_rag.text.structure.outline import Builder
from spec_rag.text.structure.records import name_members

_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_SCALAR = re.compile(r"-?\d[\d.eE+-]*$|true$|false$|null$|NaN$|-?Infinity$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_MAX_INLINE_CHARS = 160  # a container on one line that is not longer is one unit
_MAX_STRING_CHARS = 400  # longer strings are split into sentences
MAX_DEPTH = 64


@dataclass
class _Container:
    unit: int | None
    record: int
    is_array: bool
    members: list[tuple[str, str, range]] = field(default_factory=list)


def read_json(builder: Builder, start: int, end: int, needs: Sequence[int] = ()) -> bool:
    """Add the members of the JSON text in [start, end); False, with nothing added, if it is none.

    A text that is cut off at its end is read; one with other faults is not.
    """
    tokens = _tokens(builder.text, start, end)
    if tokens is None:
        return False
    builder.is_json = True
    _Members(builder, tokens, needs).read()
    return True


def _tokens(text: str, start: int, end: int) -> list[tuple[int, int]] | None:
    """Spans of the tokens; None if the text is not JSON or nested too deeply."""
    found: list[tuple[int, int]] = []
    depth, strings, position = 0, 0, start
    for match in _TOKEN.finditer(text, start, end):
        a, b = match.span()
        if text[position:a].strip():
            return None
        position = b
        first = text[a]
        if first in "{[":
            depth += 1
        elif first in "}]":
            depth -= 1
        elif first == '"':
            strings += 1
        elif first not in ",:" and not _SCALAR.match(text, a, b):
            return None
        if depth > MAX_DEPTH or depth < 0 or (not found and first not in "{["):
            return None
        found.append((a, b))
    return found if strings and not text[position:end].strip() else None


class _Members:
    """One pass over the tokens of a JSON text."""

    def __init__(self, builder: Builder, tokens: Sequence[tuple[int, int]], needs: Sequence[int]) -> None:
        self._builder, self._tokens, self._outer = builder, tokens, list(needs)
        self._close = self._closing_tokens()
        self._open: list[_Container] = []

    def read(self) -> None:
        """Add all members."""
        i, key = 0, None
        while i < len(self._tokens):
            sign = self._first(i)
            if sign in "}]":
                self._end_container(i)
                i += 1
            elif sign in ",:":
                i += 1
            elif sign == '"' and self._open and not self._open[-1].is_array and key is None and self._is_key(i):
                key = i
                i += 2
            else:
                i = self._value(i, key)
                key = None
        while self._open:
            self._name(self._open.pop())

    def _first(self, i: int) -> str:
        return self._builder.text[self._tokens[i][0]]

    def _is_key(self, i: int) -> bool:
        return i + 1 < len(self._tokens) and self._first(i + 1) == ":"

    def _value(self, i: int, key: int | None) -> int:
        text, sign = self._builder.text, self._first(i)
        first = i if key is None else key
        start = self._line_start(self._tokens[first][0])
        name = "" if key is None else _string(text[slice(*self._tokens[key])])
        last = self._close.get(i, len(self._tokens) - 1) if sign in "{[" else i
        stop = self._tokens[last][1]
        inline = stop - self._tokens[first][0] <= _MAX_INLINE_CHARS and "\n" not in text[self._tokens[first][0] : stop]
        is_flat = all(self._first(j) not in "{[" for j in range(i + 1, min(last, i + _MAX_INLINE_CHARS)))
        if sign in "{[" and not (inline and self._open and is_flat):
            self._begin_container(i, start, name, key is not None)
            return i + 1
        outer = self._open[-1] if self._open else _Container(None, self._builder.add_record(-1), True)
        record = outer.record
        if outer.is_array:
            values = [
                text[slice(*self._tokens[j])].strip('"') for j in range(i, last + 1) if self._first(j) not in ",:{}[]"
            ]
            record = self._builder.add_record(outer.record, *values)
        end = self._tokens[last + 1][1] if last + 1 < len(self._tokens) and self._first(last + 1) == "," else stop
        if sign == '"' and stop - self._tokens[i][0] > _MAX_STRING_CHARS:
            opened = self._builder.add(start, self._tokens[i][0] + 1, "key", self._needs()) if key is not None else ()
            units = self._builder.add_sentences(
                self._tokens[i][0] + (key is not None), end, opened or self._needs(), record=record
            )
        else:
            units = self._builder.add(start, end, "field", self._needs(), record)
        outer.members.append((name, text[self._tokens[i][0] : stop], units))
        return last + 1

    def _begin_container(self, i: int, start: int, name: str, has_key: bool) -> None:
        outer = self._open[-1].record if self._open else -1
        record = self._builder.add_record(outer, *([name] if has_key else []))
        units = self._builder.add(start, self._tokens[i][1], "key" if has_key else "mark", self._needs())
        is_array = self._first(i) == "["
        self._open.append(_Container(units[0] if has_key and units else None, record, is_array))

    def _end_container(self, i: int) -> None:
        a, b = self._tokens[i]
        end = self._tokens[i + 1][1] if i + 1 < len(self._tokens) and self._first(i + 1) == "," else b
        self._builder.add(self._line_start(a), end, "mark")
        if self._open:
            self._name(self._open.pop())

    def _name(self, container: _Container) -> None:
        """Name an object that is an element of an array; one with a key is named by its key."""
        if container.unit is None and not container.is_array and self._open:
            name_members(self._builder, container.record, container.members)

    def _needs(self) -> list[int]:
        parent = next((one.unit for one in reversed(self._open) if one.unit is not None), None)
        return self._outer if parent is None else [parent]

    def _line_start(self, position: int) -> int:
        """The start of the line if only white space stands before the position."""
        text = self._builder.text
        start = position
        while start > 0 and text[start - 1] in " \t":
            start -= 1
        return start if start == 0 or text[start - 1] == "\n" else position

    def _closing_tokens(self) -> dict[int, int]:
        """The closing token of each opening one."""
        found: dict[int, int] = {}
        waiting: list[int] = []
        for i in range(len(self._tokens)):
            if self._first(i) in "{[":
                waiting.append(i)
            elif self._first(i) in "}]" and waiting:
                found[waiting.pop()] = i
        return found


def _string(token: str) -> str:
    found = _STRING.match(token)
    return found[1] if found else token
