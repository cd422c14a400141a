"""Pieces of source code: bodies of definitions, and statements. Imports and signatures are in no piece."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from spec_rag.tool_results.lines import Lines
from spec_rag.tool_results.pieces import Piece

_ALWAYS = re.compile(
    r"\s*(?:import\b|from\b.*\bimport\b|use\b|using\b|package\b|#include|module\b|require|@|\W*$|end\b|(?:else|elif|except|finally)\b.*:\s*$)"
)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_MOST_DEPTH = 4


def python_pieces(lines: Lines) -> list[Piece]:
    """Pieces of Python source that parses: bodies of functions, and other statements. Any selection compiles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse("\n".join(lines.bodies))
    return list(_statements(lines, tree.body, is_module=True))


def _statements(lines: Lines, body: list[ast.stmt], *, is_module: bool = False) -> Iterator[Piece]:
    last = 0
    for i, node in enumerate(body):
        first, end = _first_line(node), node.end_lineno or node.lineno
        stop = _first_line(body[i + 1]) - 1 if i + 1 < len(body) else end
        if first <= last or stop < end:  # several statements on a line
            last = max(end, last)
            continue
        last = end
        if isinstance(node, ast.Import | ast.ImportFrom) or (is_module and _is_export_list(node)):
            continue
        if isinstance(node, (*_DEFINITIONS, ast.ClassDef)):
            begins = _first_line(node.body[0])
            if begins <= node.lineno:  # on one line
                continue
            if isinstance(node, ast.ClassDef):
                yield from _statements(lines, node.body)
            elif end - begins >= 2:
                yield _lines(lines, begins, end, "body")
        elif is_module or not _is_last_hold(body):
            yield _lines(lines, first, end, "line")


def _is_last_hold(body: list[ast.stmt]) -> bool:
    """Whether a class would be empty without its statements that are no definitions."""
    return not any(isinstance(node, (*_DEFINITIONS, ast.ClassDef)) for node in body)


def _is_export_list(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])


def _lines(lines: Lines, first: int, last: int, style: str) -> Piece:
    """The piece of lines counted from 1, both included."""
    body = lines.bodies[first - 1]
    indent = body[: len(body) - len(body.lstrip())]
    is_body = style == "body"
    return Piece(lines.starts[first - 1], lines.starts[last], "body" if is_body else "line", "lines", indent=indent)


def code_pieces(lines: Lines) -> list[Piece]:
    """Pieces of code in any language: the indented lines below each line that begins a block, and single statements.

    Code without indentation has none, and is left whole.
    """
    pieces: list[Piece] = []
    _blocks(lines, 0, len(lines), pieces, 0)
    return pieces


def _blocks(lines: Lines, first: int, last: int, pieces: list[Piece], depth: int) -> None:
    filled = [i for i in range(first, last) if lines.bodies[i].strip()]
    if not filled:
        return
    level = min(_indentation(lines.bodies[i]) for i in filled)
    tops = [i for i in filled if _indentation(lines.bodies[i]) == level]
    for i, top in enumerate(tops):
        stop = tops[i + 1] if i + 1 < len(tops) else last
        inside = [j for j in range(top + 1, stop) if lines.bodies[j].strip()]
        if not inside:
            if depth and not _ALWAYS.match(lines.bodies[top]):
                pieces.append(_lines(lines, top + 1, top + 1, "line"))
            continue
        begin, end = inside[0], inside[-1] + 1
        inner = min(_indentation(lines.bodies[j]) for j in inside)
        members = [j for j in inside if _indentation(lines.bodies[j]) == inner]
        nested = sum(j + 1 < end and _indentation(lines.bodies[j + 1]) > inner for j in members)
        if depth < _MOST_DEPTH and nested >= 2 and (end - begin) > 0.5 * (last - first):
            _blocks(lines, begin, end, pieces, depth + 1)  # a class or namespace that spans most of the text
        elif end - begin >= 3:
            pieces.append(_lines(lines, begin + 1, end, "line"))


def _indentation(body: str) -> int:
    return len(body) - len(body.lstrip())
