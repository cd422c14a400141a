"""Tables: Markdown, grids, delimited text and columns that are aligned by spaces."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile

from spec_rag.text.structure.outline import Builder

_RULE = re.compile(r"\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-+:?\s*)*(?:\|\s*)?$|\s*\|\s*:?-+:?\s*\|\s*$")
_BORDER = re.compile(r"\s*(?:\+[-=+]{2,}\+|[-=]{3,}(?:\s{1,4}[-=]{2,})+)\s*$")
_COLUMNS = re.compile(r"(?<![.!?])[ ]{2,}|[ ]*\t[ ]*")
_NUMERIC = re.compile(r"[\s\d.,:/%€$£+-]*\d[\s\d.,:/%€$£+-]*$")
_DELIMITERS = ("\t", ";", ",")
_MAX_FIELD_CHARS = 120
_MAX_JOINED_LINES = 20  # lines of a row whose quoted field contains line breaks

Line = tuple[int, int]


def markdown_table(builder: Builder, lines: Sequence[Line], i: int) -> int:
    """Read a table of lines with pipes that starts at line i; the line behind it, or i if there is none."""
    text = builder.text
    first = text[slice(*lines[i])]
    if "|" not in first or not first.strip():
        return i
    has_rule = i + 1 < len(lines) and "|" in text[slice(*lines[i + 1])] and _is_rule(text[slice(*lines[i + 1])])
    starts = first.lstrip().startswith("|")
    if not has_rule and not starts:
        return i
    end = i
    while end < len(lines):
        line = text[slice(*lines[end])]
        if "|" not in line or (starts and not line.lstrip().startswith("|")):
            break
        end += 1
    if not has_rule and end - i < 2:
        return i
    rules = [j for j in range(i, min(i + 2, end)) if _is_rule(text[slice(*lines[j])])]
    header = _add_header(builder, lines[i : i + 1], [lines[j] for j in rules])
    _add_rows(builder, lines[i + 1 + len(rules) : end], header, lambda line: line.strip().strip("|").split("|"))
    return end


def grid_table(builder: Builder, lines: Sequence[Line], i: int) -> int:
    """Read a reStructuredText table, grid or simple; the line behind it, or i if there is none."""
    text = builder.text
    if not _BORDER.match(text[slice(*lines[i])]):
        return i
    below = [j for j in range(i + 1, min(i + 10, len(lines))) if _BORDER.match(text[slice(*lines[j])])]
    if not below or below[0] == i + 1:
        return i
    end = i + 1
    while end < len(lines) and text[slice(*lines[end])].strip():
        end += 1
    borders = [j for j in range(i, end) if _BORDER.match(text[slice(*lines[j])])]
    if len(borders) < 2:
        return i
    needs = builder.lead_needs()
    top = builder.add(*lines[i], "rule")
    header = [*top]
    for line in lines[i + 1 : borders[1]]:
        header += builder.add(*line, "header")
    header += builder.add(*lines[borders[1]], "rule")
    _link(builder, header, needs)
    table = builder.add_record(-1)
    for j in range(borders[1] + 1, end):
        row = text[slice(*lines[j])].strip()
        if j in borders:
            builder.add(*lines[j], "mark")
        else:
            cells = row.strip("|").split("|") if row.startswith("|") else _COLUMNS.split(row)
            builder.add(*lines[j], "row", header, builder.add_record(table, *_names(cells)))
    return end


def delimited_table(builder: Builder, lines: Sequence[Line], i: int) -> int:
    """Read lines of comma, semicolon or tab separated values; the line behind them, or i if there are none."""
    text = builder.text
    first = text[slice(*lines[i])]
    for delimiter in _DELIMITERS:
        width = _width(first, delimiter)
        if width < 2 or not _is_delimited(first, delimiter):
            continue
        rows, end = [lines[i]], i + 1
        while end < len(lines):
            last = _row_end(text, lines, end, delimiter)
            row = text[lines[end][0] : lines[last][1]]
            fits = _width(row, delimiter) == width and (width > 2 or _is_delimited(row, delimiter))
            if not fits and not (delimiter == "\t" and "\t" in row):
                break
            rows.append((lines[end][0], lines[last][1]))
            end = last + 1
        if len(rows) < (2 if width > 2 else 3):
            continue
        header: list[int] = []
        if not any(_NUMERIC.match(cell) for cell in _cells(first, delimiter)):
            header = _add_header(builder, rows[:1], [])
            rows = rows[1:]
        _add_rows(builder, rows, header or builder.lead_needs(), partial(_cells, delimiter=delimiter))
        return end
    return i


def aligned_table(builder: Builder, lines: Sequence[Line], i: int) -> int:
    """Read rows of columns aligned by two or more spaces; the line behind them, or i if there are none."""
    text = builder.text

    def is_row(line: str) -> bool:
        return len(_aligned_cells(line)) >= 2 or _is_border(line)

    sample = list(takewhile(lambda line: is_row(text[slice(*line)]), lines[i : i + 20]))
    if len(sample) < 3 or not _same_columns([text[slice(*line)] for line in sample]):
        return i
    end = i + len(sample)
    while end < len(lines) and is_row(text[slice(*lines[end])]):
        end += 1
    rules = [
        j
        for j in range(i, i + 2)
        if len(_aligned_cells(text[slice(*lines[j])])) < 2 or _is_border(text[slice(*lines[j])])
    ]
    rows = [line for j, line in enumerate(lines[i:end], i) if j not in rules]
    cells = _aligned_cells(text[slice(*lines[i])])
    is_header = bool(rules) or not any(any(map(str.isdigit, cell)) for cell in cells)
    header = _add_header(builder, rows[:1], [lines[j] for j in rules]) if is_header else builder.lead_needs()
    _add_rows(builder, rows[is_header:], header, _aligned_cells)
    return end


def _add_header(builder: Builder, header: Sequence[Line], rules: Sequence[Line]) -> list[int]:
    """Add the header and the rule below it. Each needs the other; the header needs the lead or heading."""
    needs = builder.lead_needs()
    units = [unit for line in header for unit in builder.add(*line, "header")]
    units += [unit for line in rules for unit in builder.add(*line, "rule")]
    _link(builder, units, needs)
    return units


def _link(builder: Builder, units: Sequence[int], needs: Sequence[int]) -> None:
    for unit in units:
        builder.needs[unit] = [*needs, *(other for other in units if other != unit)]


def _add_rows(
    builder: Builder, rows: Sequence[Line], needs: Sequence[int], cells_of: Callable[[str], list[str]]
) -> None:
    table = builder.add_record(-1)
    for line in rows:
        names = _names(cells_of(builder.text[slice(*line)]))
        builder.add(*line, "row", needs, builder.add_record(table, *names))


def _names(cells: Sequence[str]) -> list[str]:
    return [cell.strip() for cell in cells if cell.strip() and len(cell) <= _MAX_FIELD_CHARS]


def _is_rule(line: str) -> bool:
    return len(line) < 2000 and _RULE.match(line) is not None


def _cells(row: str, delimiter: str) -> list[str]:
    """The fields of a row; delimiters between double quotes are part of a field."""
    fields, quoted = [""], False
    for piece in re.split(f'("|{re.escape(delimiter)})', row):
        if piece == '"':
            quoted = not quoted
        elif piece == delimiter and not quoted:
            fields.append("")
        else:
            fields[-1] += piece
    return [cell.strip() for cell in fields]


def _width(row: str, delimiter: str) -> int:
    return len(_cells(row, delimiter)) if delimiter in row else 1


def _row_end(text: str, lines: Sequence[Line], i: int, delimiter: str) -> int:
    """The last line of the row that starts at line i: a quoted field may contain line breaks."""
    if delimiter == "\t" or text.count('"', *lines[i]) % 2 == 0:
        return i
    for j in range(i + 1, min(i + _MAX_JOINED_LINES, len(lines))):
        if text.count('"', *lines[j]) % 2:
            return j
    return i


def _is_delimited(row: str, delimiter: str) -> bool:
    """Whether a row looks like fields rather than a sentence with commas."""
    cells = _cells(row, delimiter)
    if delimiter == "\t":
        return len(cells) > 1
    spaced = row.count(f"{delimiter} ")
    return spaced == 0 and all(len(cell) <= _MAX_FIELD_CHARS for cell in cells) and row.rstrip()[-1:] not in ".!?;{}"


def _aligned_cells(line: str) -> list[str]:
    return [cell for cell in _COLUMNS.split(line.strip()) if cell]


def _same_columns(rows: Sequence[str]) -> bool:
    """Whether the second column begins or ends at the same place in at least four of five rows."""
    starts, ends = [], []
    for row in rows:
        gap = _COLUMNS.search(row, len(row) - len(row.lstrip()) + 1)
        if gap and not _is_border(row):
            behind = _COLUMNS.search(row, gap.end() + 1)
            starts.append(gap.end())
            ends.append(behind.start() if behind else len(row))
    most = max((places.count(place) for places in (starts, ends) for place in set(places)), default=0)
    return most >= 3 and most >= 0.8 * len(starts)


def _is_border(line: str) -> bool:
    return _is_rule(line) or _BORDER.match(line) is not None
