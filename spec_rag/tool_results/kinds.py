"""Recognises the kind of a tool result from its text; the tool's name decides in doubt."""

from __future__ import annotations

import ast
import csv
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Literal

from spec_rag.tool_results.lines import Lines

Kind = Literal[
    "prose", "markdown", "html", "python", "code", "json", "json lines", "table", "log", "diff", "listing", "search"
]

_HUNK = re.compile(r"@@+ -\d+(?:,\d+)? (?:-\d+(?:,\d+)? )*\+\d+(?:,\d+)? @@")
_FILE_OF_DIFF = re.compile(r"diff --git |--- \S|Index: ")
# path:12:text, path-12-text, path:text with a path that has a folder or an extension
_FOUND = re.compile(
    r"(?:[A-Za-z]:[\\/])?[^\s:*?\"<>|][^:*?\"<>|\n]*?[:\-]\d+[:\-]|(?:--)$|(?!\w+://)[\w.@+~-]*[/.][\w./@+~-]+:(?!\s|//)"
)
_FOUND_BELOW = re.compile(r"\d+[:\-]")
_LONG_LISTING = re.compile(r"[-dlbcps][-rwxsStT]{9}[+.@]?\s|total \d+\s*$|(?:\S*/)?[\w .-]*:\s*$")
_TREE = re.compile(r"\s*(?:[│├└|`]|\s)*\s*(?:├──|└──|\|--|`--|\+--)|\.?\S*/?$|\d+ director")
_PATH = re.compile(
    r"\s*(?:\d[\d.,]*\s?[KMGTkB]*\s+|[ MADRCU?!]{1,2}\s|\[(?:FILE|DIR)\]\s+|[-*]\s)?"
    r"(?:[A-Za-z]:)?(?:\.{0,2}[/\\])?[\w@+~%,()\[\]{}=#$&'!.-]*(?:[/\\.][\w@+~%,()\[\]{}=#$&'! .-]*)+[/*@|]?\s*$"
)
_DIFFSTAT = re.compile(r"\s*\S.* \|\s+(?:\d+ ?[+-]*|Bin .*)\s*$|\s*\d+ files? changed")
_DEFINED = re.compile(
    r"(?:def|class|async def) \w+.*[:(,]\s*$|"
    r"(?:export |pub |public |static |async )*(?:function|func|fn|impl|struct)\b.*[{(]\s*$"
)
_NAME = re.compile(r"[\w@+~%()\[\]=.-]{1,80}[/*@|]?\s*$")
_LISTING_TOOL = re.compile(
    r"(?:^|[_\-.])(?:ls|dir|glob|tree|find|listdir|list_?(?:dir|files|director)\w*)", re.IGNORECASE
)
_LISTING_TITLE = re.compile(r"(?:total \d+|\d+ (?:files|director|matches)|Found \d+|Directory of )", re.IGNORECASE)
_TIME = (
    r"(?:\d{4}[-/]\d\d[-/]\d\d[T ,]|\d\d[-/]\d\d[-/]\d{2,4} \d|\d\d:\d\d:\d\d|[A-Z][a-z]{2}\s+\d+ \d\d:\d\d:\d\d|"
    r"\d\d/[A-Z][a-z]{2}/\d{4}|[IWEF]\d{4} \d\d:|\d{9,13}\.\d)"
)
LEVEL = r"(?:TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|ERR|FATAL|CRITICAL|SEVERE|PANIC)"
_LOGGED = re.compile(
    rf"\W{{0,3}}{_TIME}|\W{{0,2}}{LEVEL}\b|[\d.:a-f]{{7,39}} \S+ \S+ \[|\S+ \S+ {_TIME}|[\w/-]+\s*\|\s|"
    r"(?:PASS(?:ED)?|FAIL(?:ED)?|ok|SKIP|npm|Collecting|Downloading|Requirement|Compiling|Building|Installing|Get:|Fetched|"
    rf"Step \d+|#\d+|remote:|\[\d+/\d+\]|\S+(?:::\S+)+ )|\s*at \S+\(|Traceback |\s+File \"|\[\s*\d+\.\d+\]|time=|ts=|"
    rf".{{0,40}}\b{LEVEL}\b"
)
_PAGE = re.compile(r"\s*(?:<!doctype html|<html|<\?xml|<(?:head|body|div|table|ul|p|section|article)\b)", re.IGNORECASE)
_TAG = re.compile(r"\s*</?[a-zA-Z][^>]*>")
_CODE = re.compile(
    r"\s*(?:(?:export |public |private |protected |static |async |pub |const |final |abstract |default )*"
    r"(?:def|class|function|func|fn|interface|struct|enum|impl|trait|namespace|module|package|import|from|use|using|"
    r"#include|#define|#if|#endif|const|let|var|return|if|elif|else|for|while|switch|case|try|catch|except|raise|throw|with|type|local|end|yield|await)\b"
    r"(?!.*[.!?]\s*$)|@\w+|[}\])]+[;,)]*\s*$|//|/\*|\*/|\*\s|#!|self\.|this\.|[\w.\[\]\"']+\s*(?:[-+*/|&:]?=|:=)\s*\S|[\w.]+\(.*\)[;:{]?\s*$|.*[;{]\s*$|\.\w+\()"
)
_HEADING = re.compile(r"#{1,6} \S|(?:```|~~~)|\s*(?:[-*+]|\d+[.)]) \S|\|.*\|\s*$|\s*>|\s*\*\*")
_PAGE_OF_MARKDOWN = re.compile(r"\A\s*#{1,6} \S.*\n\s*\n|^(?:```|~~~)|^#{2,6} \S", re.MULTILINE)
_SENTENCE = re.compile(r".*[a-z]{2,} [a-z]{2,} .*")


def kind_of(text: str, tool: str | None = None) -> Kind:
    """The kind of a tool result.

    Args:
        text: the result.
        tool: name of the tool that returned it.
    """
    lines = Lines.of(text)
    for kind, fits in _CHECKS:
        if fits(lines, tool or ""):
            return kind
    return "prose"


def is_python(source: str) -> bool:
    """Whether it parses as Python and has definitions, imports or several statements."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as invalid escapes in the source
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    told = [node for node in tree.body if not isinstance(node, ast.Expr)]
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    named = [node for node in told if not isinstance(node, ast.AnnAssign) or node.value is not None]
    return any(isinstance(node, defined) for node in told) or len(named) >= 3


def table_rows(lines: Lines) -> tuple[int, list[int]] | None:
    """Number of header lines, and the first line of each row after them; None if it is not a table."""
    filled = [i for i, body in enumerate(lines.bodies) if body.strip()]
    if len(filled) < 3:
        return None
    piped = [
        i
        for i in filled
        if lines.bodies[i].lstrip().startswith("|") or " | " in lines.bodies[i] or "-+-" in lines.bodies[i]
    ]
    if len(piped) >= 0.8 * len(filled) and len(piped) >= 3:
        rules = [i for i in piped[:4] if set(lines.bodies[i].strip()) <= set("|-+: =")]
        return (piped[0] + 1 if not rules else rules[-1] + 1), [
            i for i in filled if i > (rules[-1] if rules else piped[0])
        ]
    return _separated(lines, filled, 2) or _columns(lines, filled)


def _separated(lines: Lines, filled: list[int], least: int) -> tuple[int, list[int]] | None:
    for delimiter in ("\t", ",", ";"):
        if delimiter not in lines.bodies[filled[0]]:
            continue
        try:
            rows, begin, widths = csv.reader((f"{body}\n" for body in lines.bodies), delimiter=delimiter), [], []
            previous = 0
            for row in rows:
                if row and any(row):
                    begin.append(previous)
                    widths.append(len(row))
                previous = rows.line_num
        except csv.Error:
            continue
        width, count = Counter(widths).most_common(1)[0] if widths else (0, 0)
        enough = width >= 3 or (width >= least and (delimiter == "\t" or lines.share(_SENTENCE) < 0.3))
        if enough and len(begin) >= 3 and widths[0] == width and count >= 0.95 * len(begin):
            if delimiter == "," and any(body.rstrip().endswith((";", "{", "(")) for body in lines.bodies[:20]):
                continue
            return (begin[1] if len(begin) > 1 else 1), begin[1:]
    return None


def _columns(lines: Lines, filled: list[int]) -> tuple[int, list[int]] | None:
    """A table whose columns are aligned with spaces, below a header or a rule."""
    ruled = set(lines.bodies[filled[1]].strip()) <= set("-= +|")
    rows = filled[2 if ruled else 1 :]
    width = len(re.split(r"\s{2,}|\t", lines.bodies[filled[0]].strip()))
    counts = Counter(len(lines.bodies[i].split()) for i in rows)
    least = len(lines.bodies[filled[0]].split()) if lines.bodies[filled[0]].isupper() else width
    alike = max(counts.values(), default=0) >= 0.8 * len(rows) and len(lines.bodies[filled[0]].split()) >= 3
    wide = sum(number for count, number in counts.items() if count >= min(least, 3)) >= 0.8 * len(rows)
    capital = least > width - 1 and least >= 2 and lines.bodies[filled[0]].isupper()
    aligned = width >= 2 and wide and (ruled or alike)
    return (rows[0], rows) if rows and (aligned or (capital and wide)) else None


def _is_json(lines: Lines, tool: str) -> bool:
    return lines.text.strip()[:1] in ("{", "[") and _parses(lines.text)


def _is_json_lines(lines: Lines, tool: str) -> bool:
    filled = [body for body in lines.bodies if body.strip()]
    return len(filled) > 1 and all(body.lstrip()[0] in "{[" and _parses(body) for body in filled)


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_diff(lines: Lines, tool: str) -> bool:
    return any(map(_HUNK.match, lines.bodies)) and any(map(_FILE_OF_DIFF.match, lines.bodies))


def _is_search(lines: Lines, tool: str) -> bool:
    if lines.share(_LOGGED) > 0.5:
        return False
    if lines.share(_FOUND) >= 0.7 and any(re.match(r".*?[:\-]\d+[:\-]|\S*[/.]\S*:", body) for body in lines.bodies):
        return True
    below = lines.share(_FOUND_BELOW)
    return 0.4 <= below < 1 and below + lines.share(_PATH) >= 0.9


def _is_listing(lines: Lines, tool: str) -> bool:
    filled = [body for body in lines.bodies if body.strip()]
    if len(filled) < 3 or max(map(len, filled)) > 500:
        return False
    if max(lines.share(_LONG_LISTING), lines.share(_DIFFSTAT)) >= 0.8 or (
        any("── " in body or "|-- " in body for body in filled) and lines.share(_TREE) >= 0.6
    ):
        return True
    paths = sum(bool(_PATH.match(body) or _LISTING_TITLE.match(body)) for body in filled) / len(filled)
    if paths >= 0.85 and lines.share(_SENTENCE) < 0.2:
        return True
    named = sum(bool(_NAME.match(body) or _PATH.match(body) or _LISTING_TITLE.match(body)) for body in filled) / len(
        filled
    )
    return named >= 0.9 if _LISTING_TOOL.search(tool) else named == 1.0 and paths > 0.3


def _is_log(lines: Lines, tool: str) -> bool:
    return len(lines) >= 3 and lines.share(_LOGGED) >= 0.5


def _is_repetitive(lines: Lines, tool: str) -> bool:
    """Many lines that differ only in numbers: the output of a program."""
    filled = [template(body) for body in lines.bodies if body.strip()]
    return len(filled) >= 20 and len(set(filled)) <= 0.5 * len(filled)


def template(line: str) -> str:
    """A line without what differs between repetitions: numbers, hexadecimal ids, times."""
    return re.sub(r"\b(?=[0-9a-f-]*\d)[0-9a-f][0-9a-f-]{7,}\b|\d+", "0", line.strip(), flags=re.IGNORECASE)


def _is_html(lines: Lines, tool: str) -> bool:
    return _PAGE.match(lines.text) is not None and (lines.share(_TAG) > 0.3 or "</" in lines.text)


def _is_code(lines: Lines, tool: str) -> bool:
    indented = sum(body[:1] in (" ", "\t") for body in lines.bodies) / len(lines)
    defines = indented >= 0.4 and any(_DEFINED.match(body.lstrip()) for body in lines.bodies)
    return len(lines) >= 3 and (defines or (lines.share(_CODE) >= 0.5 and lines.share(_SENTENCE) < 0.6))


def _is_table(lines: Lines) -> bool:
    is_page = any(re.match(r"#{1,6} \S|```|~~~", body) for body in lines.bodies)
    return not is_page and lines.share(_LOGGED) < 0.5 and table_rows(lines) is not None


def _is_separated(lines: Lines, tool: str) -> bool:
    filled = [i for i, body in enumerate(lines.bodies) if body.strip()]
    return len(filled) >= 3 and lines.share(_LOGGED) < 0.5 and _separated(lines, filled, 3) is not None


def _is_markdown(lines: Lines, tool: str) -> bool:
    return any(re.match(r"#{1,6} \S|```|~~~", body) for body in lines.bodies) or lines.share(_HEADING) >= 0.3


_CHECKS: list[tuple[Kind, Callable[[Lines, str], bool]]] = [
    ("json", _is_json),
    ("json lines", _is_json_lines),
    ("diff", _is_diff),
    ("html", _is_html),
    ("python", lambda lines, tool: "\r" not in "".join(lines.bodies) and is_python("\n".join(lines.bodies))),
    ("table", _is_separated),
    ("search", _is_search),
    ("listing", _is_listing),
    (
        "code",
        lambda lines, tool: (
            lines.share(_LOGGED) < 0.5 and not _PAGE_OF_MARKDOWN.search(lines.text) and _is_code(lines, tool)
        ),
    ),
    ("table", lambda lines, tool: _is_table(lines)),
    ("log", _is_log),
    ("markdown", _is_markdown),
    ("log", _is_repetitive),
]
