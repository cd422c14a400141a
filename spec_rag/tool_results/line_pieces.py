"""Pieces of texts of lines: tables, logs, diffs, Markdown, prose; and listings folded without loss."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spec_rag.tool_results.kinds import table_rows, template
from spec_rag.tool_results.lines import Lines
from spec_rag.tool_results.pieces import NEVER, Piece, Style

_ERROR = re.compile(
    r"\b(?:error|fatal|critical|severe|panic|exception|traceback|fail(?:ed|ure|s)?|cannot|could not|denied|"
    r"refused|segfault|abort(?:ed)?|killed|timed? ?out|assert\w*|not found|undefined)\b|"
    r"\b[A-Z]\w*(?:Error|Exception)\b|\bE\d{4} ",
    re.IGNORECASE,
)
_NO_ERROR = re.compile(r"\b(?:0|no|without) (?:errors?|failures?|failed)\b|\berrors?[=:] ?0\b", re.IGNORECASE)
_CALM = re.compile(r"(?!.*\b(?:WARN(?:ING)?|ERROR|FATAL|CRITICAL)\b).*\b(?:DEBUG|TRACE|INFO)\b")
_ENDS = 3  # first and last lines of a log that are always kept
_HEAD_OF_DIFF = re.compile(
    r"(?:diff |index |--- |\+\+\+ |@@|new file|deleted file|old mode|new mode|similarity|rename |copy |Binary |commit |"
    r"Author:|Date:|Index:|={5,}|GIT binary)"
)
_BLOCK = 12  # lines of a hunk that stay together
_HEADING = re.compile(r"#{1,6} \S|=+\s*$|-{3,}\s*$")
_FENCE = re.compile(r"\s*(```|~~~)")


def table_pieces(lines: Lines) -> list[Piece]:
    """Rows of a table; its header is in no piece."""
    found = table_rows(lines)
    if found is None:
        return []
    _, begin = found
    ends = [*begin[1:], len(lines)]
    return [
        Piece(lines.starts[a], lines.starts[b], "line", "rows")
        for a, b in zip(begin, ends, strict=True)
        if set(lines.bodies[a].strip()) - set("+-=| ")
    ]


def log_pieces(lines: Lines) -> list[Piece]:
    """Lines of a log. A repeated line is folded without loss; errors, first and last lines are in no other piece."""
    pieces: list[Piece] = []
    seen: set[str] = set()
    before = ""
    i = 0
    while i < len(lines):
        body, form = lines.bodies[i], template(lines.bodies[i])
        is_new_error = _is_error(body) and form not in seen
        if _ENDS <= i < len(lines) - _ENDS and not is_new_error:
            bonus = -(1.0 if _CALM.match(body) else 0.0) - (0.5 if form == before else 0.0)
            pieces.append(Piece(lines.starts[i], lines.starts[i + 1], bonus=bonus))
        seen.add(form)
        before = form
        times = _repeats(lines, i)
        i += 1
        note = f"[… the line above is repeated {times - 1:,} times ({i + 1}-{i + times - 1})]"
        start, end = lines.starts[i], lines.starts[i + times - 1]
        if times > 2 and len(note) < end - start:
            pieces.append(Piece(start, end, bonus=NEVER, note=note))
            i += times - 1
    return pieces


def _repeats(lines: Lines, i: int) -> int:
    """Number of consecutive lines from the i-th that are the same."""
    end = i + 1
    while lines.bodies[i].strip() and end < len(lines) and lines.bodies[end] == lines.bodies[i]:
        end += 1
    return end - i


def _is_error(body: str) -> bool:
    return _ERROR.search(body) is not None and _NO_ERROR.search(body) is None and _CALM.match(body) is None


def diff_pieces(lines: Lines) -> list[Piece]:
    """Parts of the hunks of a diff; headers of files and hunks are in no piece."""
    pieces: list[Piece] = []
    first: int | None = None
    in_hunk = False
    for i, body in enumerate([*lines.bodies, "@@"]):
        is_head = bool(_HEAD_OF_DIFF.match(body)) and not (
            in_hunk and body.startswith(("--- ", "+++ ")) and _in_body(lines, i)
        )
        is_new_block = first is not None and i - first >= _BLOCK and body.startswith(" ")
        if first is not None and (is_head or is_new_block):
            pieces.append(Piece(lines.starts[first], lines.starts[i], "line", "lines"))
            first = None
        in_hunk = body.startswith("@@") or (in_hunk and not body.startswith(("diff ", "commit ", "Index:")))
        if first is None and not is_head and i < len(lines):
            first = i
    return pieces


def _in_body(lines: Lines, i: int) -> bool:
    """Whether a line "--- x" is a removed line "-- x": no "+++" follows it or precedes it."""
    near = lines.bodies[i + 1] if lines.bodies[i].startswith("--- ") and i + 1 < len(lines) else ""
    return not (near.startswith("+++ ") or lines.bodies[i - 1].startswith("--- "))


def prose_pieces(lines: Lines, units: Sequence[tuple[int, int]], *, markdown: bool = False) -> list[Piece]:
    """Sentences and other units of a text; of Markdown, headings are in no piece, and a fenced block is one.

    Args:
        lines: of the text.
        units: spans of its units, ascending.
    """
    text = lines.text
    blocks = _markdown_blocks(lines) if markdown else []
    pieces: list[Piece] = []
    place = 0  # end of the piece before
    for i, (start, end) in enumerate(units):
        if end <= place:
            continue
        line = text.rfind("\n", 0, start) + 1
        begin = line if line >= place and not text[line:start].strip() else max(start, place)
        stop = units[i + 1][0] if i + 1 < len(units) else len(text)
        while blocks and blocks[0][1] <= begin:
            blocks.pop(0)
        if blocks and blocks[0][0] <= begin:
            begin, stop = blocks[0]
        elif markdown and _HEADING.match(text, begin):
            continue
        elif "\n" in text[end:stop]:
            stop = text.index("\n", end) + 1
        fills_lines = begin == line and (stop == len(text) or text[stop - 1] == "\n")
        style: Style = "line" if fills_lines else "text"
        pieces.append(Piece(begin, stop, style, "lines" if fills_lines else "characters"))
        place = stop
    return pieces


def _markdown_blocks(lines: Lines) -> list[tuple[int, int]]:
    """Character ranges of fenced blocks."""
    found: list[tuple[int, int]] = []
    opened: int | None = None
    for i, body in enumerate(lines.bodies):
        if not _FENCE.match(body):
            continue
        if opened is None:
            opened = i
        else:
            found.append((lines.starts[opened], lines.starts[i + 1]))
            opened = None
    return found


def folded_paths(text: str) -> str:
    """A list of paths, or the output of grep, with the path of consecutive entries written once.

    Returns:
        The text itself where that is not shorter, or would not give every entry back (see `unfolded_paths`).
    """
    folded, last = [], None
    rows = text.split("\n")
    for i, row in enumerate(rows):
        path, rest = _parted(row)
        if not path:
            folded.append(row)
            last = None
            continue
        if path != last:
            if not (i + 1 < len(rows) and _parted(rows[i + 1])[0] == path):
                folded.append(row)
                last = None
                continue
            folded.append(path)
            last = path
        folded.append(f"{_BELOW}{rest}")
    result = f"{_NOTE}\n" + "\n".join(folded)
    return result if len(result) < len(text) and unfolded_paths(result) == text else text


def unfolded_paths(folded: str) -> str:
    """The text from which `folded_paths` made this one."""
    rows = folded.split("\n")[1:]
    found: list[str] = []
    above = ""
    for i, row in enumerate(rows):
        if row.startswith(_BELOW):
            found.append(above + row.removeprefix(_BELOW))
        elif i + 1 < len(rows) and rows[i + 1].startswith(_BELOW):
            above = row
        else:
            found.append(row)
    return "\n".join(found)


_NOTE = "[every entry is here; an indented one continues the path above it]"
_BELOW = "\t"


def _parted(row: str) -> tuple[str, str]:
    """A path's folder or a match's file, and the rest of the row; "" where it has none."""
    if row.startswith(_BELOW):
        return "", row
    found = re.match(r"[^\s:][^:\n]*:(?=\d+:)", row)
    if found:
        return found.group(), row[found.end() :]
    if re.fullmatch(r"\S+", row) and "/" in row.rstrip("/"):
        cut = row.rstrip("/").rindex("/") + 1
        return row[:cut], row[cut:]
    return "", row
