"""Shortens one tool result for a question, by its kind, with a mark and a handle where something is left out.

    text -> kind -> pieces -> scores of a compression -> selection -> ShortenedResult

`plan_result` decides what can be done without a draft; `Plan.shortened` uses the scores of a compression.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from spec_rag.compression.originals import Originals
from spec_rag.handles import document_key
from spec_rag.options.tool_results import ToolResultOptions
from spec_rag.results import CompressedDocument, CompressionData, KeptUnit
from spec_rag.text.documents import Document
from spec_rag.tool_results.code_pieces import code_pieces, python_pieces
from spec_rag.tool_results.json_pieces import json_lines_pieces, json_pieces, minified
from spec_rag.tool_results.kinds import Kind, is_python, kind_of
from spec_rag.tool_results.line_pieces import diff_pieces, folded_paths, log_pieces, prose_pieces, table_pieces
from spec_rag.tool_results.lines import Lines
from spec_rag.tool_results.pieces import ALWAYS, LEAST, NEVER, Omission, Piece, Structure, piece_scores

NOTHING_KEPT = "(Nothing in this result is relevant to the question.)"
_REQUIRED = ("keep", "first", "last", "floor", "context")
_EXCERPT = "# [Excerpt: this does not compile as it stands.]\n"
MAX_ARGUMENTS = 2000  # characters of a call that take part in the question


@dataclass(frozen=True)
class ShortenedResult:
    """A tool result as the model reads it.

    Attributes:
        text: the shortened text, or the original.
        original: the result as it came.
        kind: its kind.
        omissions: what was left out, ascending; empty where nothing is missing.
        handle: under which the original is remembered; None where nothing is missing.
        reason: why it is the original; None where it was shortened.
        tokens_before, tokens_after: of both texts.
    """

    text: str
    original: str = field(repr=False)
    kind: str = "prose"
    omissions: list[Omission] = field(default_factory=list)
    handle: str | None = None
    reason: str | None = None
    tokens_before: int = 0
    tokens_after: int = 0


@dataclass
class Plan:
    """What can be done with a tool result before it is read.

    Attributes:
        result: the final result where no scores are needed, else None.
    """

    text: str
    kind: Kind
    options: ToolResultOptions
    result: ShortenedResult | None = None

    @property
    def document(self) -> Document:
        """What is to be compressed."""
        return Document(self.text)

    def shortened(
        self, compression: CompressionData, originals: Originals | None, count: Callable[[str], int] | None = None
    ) -> ShortenedResult:
        """The result for the scores and the budget of a compression of `document`.

        Args:
            compression: of this document alone.
            originals: where the original is remembered; None writes no handle into the marks.
            count: tokens of a text; None estimates them from the compression's.
        """
        (read,) = compression.documents
        if not any(unit.kept is False for unit in read.units) and read.text.strip() == self.text.strip():
            return _whole(self.text, self.kind, "within the budget", read.tokens_before)
        structure = _structure(self.kind, Lines.of(self.text), read)
        budget = int(len(self.text) * compression.budget_tokens / max(read.tokens_before, 1))
        if self.kind == "prose" and not self.options.show_omissions:
            text, omissions = read.text or NOTHING_KEPT, _gaps(read)
        else:
            threshold = compression.settings.get("threshold")
            units = [(unit.start, unit.end, _score(unit, threshold)) for unit in read.units]
            kept = structure.selected(piece_scores(structure.pieces, units), budget)
            text, omissions = structure.rendered(kept, document_key(None, self.text) if originals is not None else None)
            if not any(kept) and self.kind in ("prose", "markdown", "html"):
                text = f"{NOTHING_KEPT} {text}"
            if self.kind == "python" and not is_python(text):
                text = _EXCERPT + text
        if not omissions or len(text) >= len(self.text):
            return _whole(self.text, self.kind, "nothing to leave out", read.tokens_before)
        handle = None if originals is None else originals.hold(self.text, []).partition("-")[0]
        after = count(text) if count else round(read.tokens_before * len(text) / len(self.text))
        after = min(after, read.tokens_before)
        return ShortenedResult(text, self.text, self.kind, omissions, handle, None, read.tokens_before, after)


def plan_result(text: str, options: ToolResultOptions, tool: str | None = None, kind: Kind | None = None) -> Plan:
    """Decide what happens to a tool result.

    Args:
        text: the result.
        options: modes, lists of tools, floor.
        tool: name of the tool that returned it.
        kind: its kind; None recognises it.
    """
    refusal = options.refusal(text, tool)
    if refusal is not None:
        return Plan(text, "prose", options, _whole(text, "unknown", refusal))
    found = kind or kind_of(text, tool)
    plan = Plan(text, found, options)
    if found in ("listing", "search") or options.mode == "lossless":
        shorter = _lossless(text, found)
        reason = (
            None
            if len(shorter) < len(text)
            else f"{found} stays whole"
            if found in ("listing", "search")
            else "lossless"
        )
        plan.result = ShortenedResult(shorter if reason is None else text, text, found, reason=reason)
    return plan


def shorten_tool_result(
    text: str,
    query: str,
    *,
    tool: str | None = None,
    arguments: Any = None,
    kind: Kind | None = None,
    options: ToolResultOptions | None = None,
    originals: Originals | None = None,
    **compression: Any,
) -> ShortenedResult:
    """Shorten a tool result for a question.

    Args:
        text: the result.
        query: the user's turn.
        tool, arguments: of the call that returned it; they take part in the question.
        kind: "prose", "markdown", "html", "python", "code", "json", "json lines", "table", "log", "diff", "listing" or
            "search"; None recognises it.
        options: modes, lists of tools, floor; None is the default.
        originals: where the original is remembered under the handle; None writes no handle.
        **compression: arguments of `spec_rag.compress`, such as draft, ratio and max_tokens.

    Raises:
        ConfigError: an argument is out of range.
    """
    from spec_rag.compression.compress import compress

    plan = plan_result(text, options or ToolResultOptions(), tool, kind)
    if plan.result is not None:
        return plan.result
    found = compress([plan.document], call_question(query, tool, arguments), **compression)
    return plan.shortened(found, originals)


def call_question(turn: str, tool: str | None, arguments: Any = None) -> str:
    """The question of a tool result: the user's turn, and the call that returned the result.

    Args:
        turn: text of the user's turn; may be empty.
        tool: name of the tool, or None.
        arguments: of the call: a mapping, or its JSON.
    """
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments) if arguments.strip() else None
    if isinstance(arguments, Mapping):
        words = ", ".join(f"{name}: {_plain(value)}" for name, value in arguments.items())
    else:
        words = _plain(arguments) if arguments is not None else ""
    call = " ".join(filter(None, ((tool or "").replace("_", " "), words)))[:MAX_ARGUMENTS]
    return "\n".join(filter(None, (turn.strip(), call.strip())))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _whole(text: str, kind: str, reason: str, tokens: int = 0) -> ShortenedResult:
    return ShortenedResult(text, text, kind, reason=reason, tokens_before=tokens, tokens_after=tokens)


def _lossless(text: str, kind: Kind) -> str:
    if kind in ("listing", "search"):
        return folded_paths(text)
    if kind == "json":
        return minified(text)
    if kind == "log":
        structure = Structure(text, kind, log_pieces(Lines.of(text)))
        exact = [piece for piece in structure.pieces if piece.note is not None]
        return Structure(text, kind, exact).rendered([False] * len(exact), None)[0]
    return text


def _structure(kind: Kind, lines: Lines, read: CompressedDocument) -> Structure:
    pieces: list[Piece]
    comment = ""
    if kind == "json":
        pieces = json_pieces(lines.text)
    elif kind == "json lines":
        pieces = json_lines_pieces(lines)
    elif kind == "python":
        pieces, comment = python_pieces(lines), "# "
    elif kind == "code":
        pieces = code_pieces(lines)
    elif kind == "table":
        pieces = table_pieces(lines)
    elif kind == "log":
        pieces = log_pieces(lines)
    elif kind == "diff":
        pieces = diff_pieces(lines)
    else:
        units = [(unit.start, unit.end) for unit in read.units]
        pieces = prose_pieces(lines, units, markdown=kind == "markdown")
    return Structure(lines.text, kind, pieces, comment)


def _score(unit: KeptUnit, threshold: float | None) -> float:
    if unit.reason in _REQUIRED:
        return ALWAYS
    is_low = threshold is not None and unit.importance < threshold
    return NEVER if is_low or math.isnan(unit.importance) else max(unit.importance, LEAST)


def _gaps(read: CompressedDocument) -> list[Omission]:
    text, found, place = read.original_text, [], 0
    for start, end in [*read.spans, (len(text), len(text))]:
        if text[place:start].strip():
            lines = text.count("\n", 0, place) + 1, text.count("\n", 0, start) + 1
            found.append(Omission(place, start, "characters", *lines))
        place = end
    return found
