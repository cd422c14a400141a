"""Source code: statements as units, which need the signatures and conditions above them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from spec_rag.text.structure.outline import Builder

Line = tuple[int, int]

CODE_LINE = re.compile(
    r"\s*(?:"
    r"(?:async\s+)?def\s+\w|class\s+\w+\s*[:({]|(?:pub\s+)?(?:fn|func)\s+[\w(]|(?:export\s+|async\s+)*function\b"
    r"|(?:public|private|protected|static|final|const|let|var)\s+\w[\w<>\[\], ]*[\w>]?\s*[=({;]"
    r"|(?:import|from|package|using|use)\s+[\w.{*\"'@/:]+(?:\s+(?:import|as|from)\b.*)?;?\s*$|#include\b|#define\b"
    r"|(?:if|for|while|switch|elif|else if|catch|with|match)\b.*[:{]\s*$|(?:else|try|finally|do)\s*[:{]?\s*$"
    r"|return\b[^.!?]*;?\s*$|(?:raise|throw|yield|assert)\s+\w|except\b.*:\s*$|@\w[\w.]*(?:\(.*\))?\s*$|\}\s*(?:else|catch)\b"
    r"|[\w.\[\]\"'*&]+\s*(?:[-+*/|&]?=|:=|<-)\s*\S.*|[\w.:>-]+\(.*\)\s*[;{:]?\s*$|[^\n]*[;{}]\s*$|[)\]}]+[,;)]*\s*$"
    r")"
)
STRONG_CODE_LINE = re.compile(
    r"\s*(?:(?:async\s+)?def\s+\w+\(|class\s+\w+\s*[:({]|(?:pub\s+)?fn\s+\w+|func\s+[\w(]|(?:export\s+)?function\s+\w+\s*\("
    r"|import\s+[\w.{]+|from\s+[\w.]+\s+import\b|#include\b|package\s+[\w.]+;?\s*$|(?:public|private|protected)\s+\w"
    r"|(?:const|let|var)\s+\w+\s*=|return\b[^.!?]*;?\s*$|#!/|[^\n]*[;{]\s*$|\}\s*$)"
)
_DEFINITION = re.compile(
    r"\s*(?:export\s+|default\s+|async\s+|pub(?:\(\w+\))?\s+|public\s+|private\s+|protected\s+|static\s+|abstract\s+)*"
    r"(?:def|class|function|func|fn|interface|struct|enum|trait|impl|module|namespace|type)\b[\s(]+(?P<name>\w+)?"
    r"|\s*[\w<>\[\]*&:]+\s+(?P<c_name>\w+)\s*\([^;]*\)\s*\{?\s*$|\s*(?P<sh_name>[\w-]+)\s*\(\)\s*\{?\s*$"
)
_BRANCH = re.compile(r"\s*\}?\s*(?:else|elif|elsif|except|catch|finally|case|default|rescue|when)\b")
_CLOSER = re.compile(r"\s*(?:[\])}>;,]+|end|fi|done|esac)\s*[;,]?\s*$")
_PREFIX = re.compile(r"\s*(?:@\w|#\[|//|#(?!include|define|!)|/\*|\*|--\s)")
_QUOTES = re.compile(r'"""|\'\'\'')
_MAX_JOINED_LINES = 30
_MAX_DOCSTRING_CHARS = 400


@dataclass
class _Block:
    indent: int
    unit: int
    has_body: bool = False
    is_definition: bool = False


def read_code(builder: Builder, lines: Sequence[Line], needs: Sequence[int] = ()) -> None:
    """Add lines of code as statements.

    A statement needs what opens the blocks around it; an opening line needs the first statement of its block and a
    branch needs the block that it continues. A comment or decorator needs the statement below it.
    """
    _Code(builder, lines, needs).read()


class _Code:
    def __init__(self, builder: Builder, lines: Sequence[Line], needs: Sequence[int]) -> None:
        self._builder, self._lines, self._outer = builder, lines, list(needs)
        self._blocks: list[_Block] = []
        self._closed: dict[int, int] = {}  # the last block that ended, by its indentation
        self._prefixes: list[int] = []
        self._records: list[tuple[int, int]] = [(-1, builder.add_record(-1))]

    def read(self) -> None:
        """Add all lines."""
        i = 0
        while i < len(self._lines):
            line = self._text(i)
            if not line.strip():
                self._prefixes = []
                i += 1
                continue
            end = self._statement_end(i)
            start, stop = self._lines[i][0], self._lines[end - 1][1]
            self._statement(line, start, stop, end)
            i = end

    def _text(self, i: int) -> str:
        return self._builder.text[slice(*self._lines[i])]

    def _statement(self, line: str, start: int, stop: int, end: int) -> None:
        builder, indent = self._builder, _indent(line)
        if _CLOSER.match(line):
            self._leave(indent)
            units = builder.add(start, stop, "mark", self._needs())
            opener = self._closed.get(indent)
            if opener is not None and units:
                builder.needs[opener].append(units[0])
            return
        self._leave(indent)
        needs = self._needs()
        if _BRANCH.match(line) and indent in self._closed:
            needs = [*needs, self._closed[indent]]
        is_docstring = _QUOTES.match(line.strip()) is not None
        if is_docstring and stop - start > _MAX_DOCSTRING_CHARS:
            units = builder.add_sentences(start, stop, needs, record=self._records[-1][1])
            return
        found = _DEFINITION.match(line)
        opens = self._opens(indent, end, line)
        if found and opens:
            name = found["name"] or found["c_name"] or found["sh_name"] or ""
            self._records.append((indent, builder.add_record(self._records[-1][1], name)))
        units = builder.add(start, stop, "code", needs, self._records[-1][1])
        if not units:
            return
        unit = units[0]
        if self._blocks and not self._blocks[-1].has_body and not is_docstring and not _PREFIX.match(line):
            self._blocks[-1].has_body = True
            if not self._blocks[-1].is_definition:
                builder.needs[self._blocks[-1].unit].append(unit)
        if _PREFIX.match(line) and not opens:
            self._prefixes.append(unit)
            return
        for prefix in self._prefixes:
            builder.needs[prefix].append(unit)
        self._prefixes = []
        if opens:
            self._blocks.append(_Block(indent, unit, is_definition=bool(found)))

    def _needs(self) -> list[int]:
        return [self._blocks[-1].unit] if self._blocks else self._outer

    def _leave(self, indent: int) -> None:
        """Close the blocks that a line of this indentation ends."""
        while self._blocks and self._blocks[-1].indent >= indent:
            block = self._blocks.pop()
            self._closed[block.indent] = block.unit
        for deeper in [place for place in self._closed if place > indent]:
            del self._closed[deeper]
        while self._records[-1][0] >= indent and len(self._records) > 1:
            self._records.pop()

    def _opens(self, indent: int, end: int, line: str) -> bool:
        """Whether the next line is indented more deeply than this one."""
        for j in range(end, min(end + 5, len(self._lines))):
            below = self._text(j)
            if below.strip():
                return _indent(below) > indent and not _CLOSER.match(below)
        return False

    def _statement_end(self, i: int) -> int:
        """The line behind the statement at line i: brackets and triple quotes may span lines."""
        line = self._text(i)
        quotes = _QUOTES.findall(line)
        if len(quotes) % 2:
            for j in range(i + 1, min(i + 200, len(self._lines))):
                if quotes[-1] in self._text(j):
                    return j + 1
            return i + 1
        depth = _depth(line)
        j = i + 1
        while depth > 0 and j < min(i + _MAX_JOINED_LINES, len(self._lines)):
            depth += _depth(self._text(j))
            j += 1
        return j if depth <= 0 else i + 1


def _depth(line: str) -> int:
    """Parentheses and square brackets that a line opens less those it closes, those in quotes left out."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|#.*|//.*', "", line[:2000])
    return sum(map(bare.count, "([")) - sum(map(bare.count, ")]"))


def _indent(line: str) -> int:
    return len(line[: len(line) - len(line.lstrip())].replace("\t", "    "))
