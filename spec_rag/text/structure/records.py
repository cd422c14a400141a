"""Key-value text with nesting by indentation or sections: YAML, TOML, INI, properties, headers of messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from spec_rag.text.structure.outline import Builder, Kind

Line = tuple[int, int]

KEY_LINE = re.compile(
    r"""(?P<indent>\s*)(?P<item>-\s+)?(?P<key>"[^"\n]{1,80}"|'[^'\n]{1,80}'|[\w$@<*][\w .$@/<>{}*()-]{0,60}?)\s*"""
    r"""(?P<sign>:(?=\s|$)|=(?!=)|:=)\s*(?P<value>.*)$"""
)
ITEM_LINE = re.compile(r"(?P<indent>\s*)-(?:\s+(?P<value>.*))?$")
SECTION_LINE = re.compile(r"\s*\[{1,2}\s*(?P<name>[^\[\]]{1,120})\s*\]{1,2}\s*(?:[#;].*)?$")
COMMENT_LINE = re.compile(r"\s*(?:#|;|//)")
_SEPARATOR = re.compile(r"\s*(?:-{3,}|\.{3}|%{2,})\s*$")
NAME_KEYS = (
    "name",
    "id",
    "title",
    "key",
    "label",
    "hostname",
    "host",
    "username",
    "user",
    "email",
    "sku",
    "code",
    "slug",
)
_MAX_VALUE_CHARS = 400  # longer blocks of text are split into sentences


@dataclass
class _Level:
    """An open parent: its indentation, key, unit and record, and the members among which one names the record."""

    indent: float
    unit: int | None
    record: int
    key: str = ""
    is_element: bool = False
    members: list[tuple[str, str, range]] = field(default_factory=list)


def read_records(builder: Builder, lines: Sequence[Line], needs: Sequence[int] = ()) -> None:
    """Add lines of keys and values. Each needs the keys above it, and the line that names its record."""
    _Records(builder, lines, needs).read()


def name_members(builder: Builder, record: int, members: Sequence[tuple[str, str, range]]) -> None:
    """Let all members of a record need the one that names it.

    Args:
        builder: the builder.
        record: index of the record.
        members: key, value and units of each member.
    """
    if not members:
        return
    keys = [key.strip("\"' ").casefold() for key, _, _ in members]
    place = next((keys.index(name) for name in NAME_KEYS if name in keys), 0)
    builder.name_record(record, members[place][1].strip("\"' ,"))
    naming = members[place][2]
    for _, _, units in members:
        if units != naming and naming:
            for unit in units:
                builder.needs[unit].append(naming[0])


class _Records:
    def __init__(self, builder: Builder, lines: Sequence[Line], needs: Sequence[int]) -> None:
        self._builder, self._lines, self._outer = builder, lines, list(needs)
        root = builder.add_record(-1)
        self._root = root
        self._levels = [_Level(-2, None, root)]
        self._waiting: list[int] = []  # comments that belong to the next line
        self._first_key = self._repeated_first_key()

    def read(self) -> None:
        """Add all lines."""
        i, fresh = 0, True
        while i < len(self._lines):
            line = self._text(i)
            if not line.strip() or _SEPARATOR.match(line):
                self._builder.add(*self._lines[i], "mark")
                fresh, self._waiting = True, []
                i += 1
            elif COMMENT_LINE.match(line):
                self._waiting += self._builder.add(*self._lines[i], "text", self._outer)
                i += 1
            else:
                first = len(self._builder)
                i = self._read_line(i, line, fresh)
                for comment in self._waiting if first < len(self._builder) else ():
                    self._builder.needs[comment].append(first)
                fresh, self._waiting = False, []
        self._pop(-2)

    def _below(self, i: int) -> str:
        """The next line that is not blank, of the next three."""
        return next((self._text(j) for j in range(i, min(i + 3, len(self._lines))) if self._text(j).strip()), "")

    def _text(self, i: int) -> str:
        return self._builder.text[slice(*self._lines[i])]

    def _read_line(self, i: int, line: str, fresh: bool) -> int:
        if section := SECTION_LINE.match(line):
            self._pop(-1)
            record = self._builder.add_record(self._root, section["name"].strip())
            unit = self._builder.add(*self._lines[i], "key", self._outer)
            self._levels.append(_Level(-1, unit[0], record, is_element=line.lstrip().startswith("[[")))
            return i + 1
        found = KEY_LINE.match(line)
        item = ITEM_LINE.match(line)
        if found and not found["item"]:
            return self._read_key(i, found, fresh)
        if item:
            return self._read_item(i, item, found)
        units = self._builder.add(*self._lines[i], "field", self._needs())
        self._note("", line, units)
        return i + 1

    def _read_item(self, i: int, item: re.Match[str], found: re.Match[str] | None) -> int:
        indent = _width(item["indent"]) + 0.5
        self._pop(indent)
        record = self._builder.add_record(self._levels[-1].record)
        self._levels.append(_Level(indent, None, record, is_element=True))
        if found:
            return self._read_key(i, found, False)
        end = self._value_end(i + 1, indent)
        opens = end < len(self._lines) and _indent(self._text(end)) > indent and item["value"]
        kind: Kind = "key" if opens else "field"
        units = self._builder.add(self._lines[i][0], self._lines[end - 1][1], kind, self._needs(), record)
        self._builder.name_record(record, item["value"] or "")
        if opens:
            self._levels[-1].unit, self._levels[-1].is_element = units[0], False
        return end if units else i + 1

    def _read_key(self, i: int, found: re.Match[str], fresh: bool) -> int:
        indent = _width(found["indent"]) + (len(found["item"]) if found["item"] else 0)
        if not found["item"]:
            self._pop(indent)
        if fresh and indent == 0 and self._first_key == found["key"]:
            self._pop(-0.5)
            self._levels.append(_Level(-0.5, None, self._builder.add_record(self._root), is_element=True))
        value = found["value"].strip()
        end = self._value_end(i + 1, indent)
        below = self._below(i + 1)
        is_block = value[:1] in ("|", ">") or value[:3] in ('"""', "'''")
        start, stop = self._lines[i][0], self._lines[end - 1][1]
        if is_block and stop - start > _MAX_VALUE_CHARS:
            unit = self._builder.add(*self._lines[i], "key", self._needs())
            self._builder.add_sentences(self._lines[i + 1][0], stop, unit, record=self._record())
            return end
        opens = not value or (value[:1] in "&!" and " " not in value) or COMMENT_LINE.match(value)
        deeper = below.strip() and (_indent(below) > indent or (ITEM_LINE.match(below) and _indent(below) == indent))
        if opens and deeper:
            unit = self._builder.add(*self._lines[i], "key", self._needs())
            key = found["key"].strip("\"'")
            if found["item"]:
                self._note(key, key, unit)
            self._levels.append(_Level(indent, unit[0], self._builder.add_record(self._record(), key), key))
            return i + 1
        record = self._record()
        if "." in found["key"]:
            record = self._builder.add_record(record, found["key"].rpartition(".")[0])
        units = self._builder.add(start, stop, "field", self._needs(), record)
        self._note(found["key"], value, units)
        return end

    def _value_end(self, i: int, indent: float) -> int:
        """The line behind a value: deeper lines that are no keys or items, or up to its closing bracket or quotes."""
        if i >= len(self._lines):
            return i
        value = self._text(i - 1).rstrip()
        for opening, closing in (("[", "]"), ("{", "}"), ('"""', '"""'), ("'''", "'''")):
            if value.endswith(opening) and value.count(opening) == 1:
                for j in range(i, min(i + 40, len(self._lines))):
                    if closing in self._text(j):
                        return j + 1
        is_block = re.search(r"[:=]\s*[|>][+-]?\d?\s*(?:#.*)?$", value) is not None
        ends_in_key = KEY_LINE.match(value)
        while i < len(self._lines):
            line = self._text(i)
            if not line.strip():
                if not is_block:
                    return i
            elif (
                _indent(line) <= indent
                or (not is_block and (KEY_LINE.match(line) or ITEM_LINE.match(line)))
                or (not is_block and ends_in_key and not ends_in_key["value"].strip())
            ):
                break
            i += 1
        while not self._text(i - 1).strip():
            i -= 1
        return i

    def _needs(self) -> list[int]:
        parent = next((level.unit for level in reversed(self._levels) if level.unit is not None), None)
        return self._outer if parent is None else [parent]

    def _record(self) -> int:
        return self._levels[-1].record

    def _note(self, key: str, value: str, units: range) -> None:
        """Take note of a member of the open element; `metadata: name:` of a manifest is a member of the manifest."""
        level = self._levels[-1]
        if level.key == "metadata" and key == "name":
            level = self._levels[-2]
        if level.is_element:
            level.members.append((key, value, units))

    def _pop(self, indent: float) -> None:
        while len(self._levels) > 1 and self._levels[-1].indent >= indent:
            level = self._levels.pop()
            name_members(self._builder, level.record, level.members)

    def _repeated_first_key(self) -> str | None:
        """The first key, if blocks that are separated by blank lines begin with it more than once."""
        fresh, first, count = True, None, 0
        for i in range(len(self._lines)):
            line = self._text(i)
            if not line.strip() or _SEPARATOR.match(line):
                fresh = True
                continue
            found = KEY_LINE.match(line) if fresh else None
            if found and not found["indent"] and not found["item"]:
                first = first or found["key"]
                count += found["key"] == first
            fresh = False
        return first if count > 1 else None


def _width(space: str) -> int:
    return len(space.replace("\t", "    "))


def _indent(line: str) -> int:
    return _width(line[: len(line) - len(line.lstrip())])
