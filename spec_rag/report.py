"""A compression as people look at it: a short table, a page of its own, and importance along the documents.

Everything that comes from a document or a question is escaped. This module shows results; it does not compute any.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec_rag.citations import Citation, citations_of
from spec_rag.errors import MissingDependencyError
from spec_rag.results import CompressedDocument, CompressionData, KeptUnit, Reason
from spec_rag.utils.terminal import visible

if TYPE_CHECKING:
    from jinja2 import Template
    from rich.table import Table
    from rich.text import Text

_PREVIEW_CHARS = 140
_WHY: Mapping[Reason, str] = {
    "score": "for its score",
    "keep": "keep= matches it",
    "first": "among the first of its document",
    "last": "among the last of its document",
    "floor": "its document's floor",
    "context": "next to a kept unit",
    "structure": "a kept unit needs it",
    "cut": "its best words, which fitted",
    "whole": "everything fitted",
}
_HELD = ("keep", "first", "last", "floor", "context")
_CHART_WIDTH, _CHART_HEIGHT, _CHART_GAP = 1000.0, 90.0, 4.0


@dataclass(frozen=True)
class Compression(CompressionData):
    """The documents of one question after compression. Prints as a table with rich and as HTML in notebooks."""

    def __rich__(self) -> Table:
        return compression_table(self)

    def citations(self) -> list[Citation]:
        """The kept pieces with their character ranges, in the file where a document's place in it is known."""
        return citations_of(self.documents)

    def to_html(self) -> str:
        """A page with the kept text dark on a mark and the dropped text grey."""
        return compression_html(self)

    def _repr_html_(self) -> str:
        return self.to_html()


def compression_table(compression: CompressionData) -> Table:
    """One row per document and a total, for `rich.print`.

    Raises:
        MissingDependencyError: rich is not installed.
    """
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingDependencyError('The table needs rich: pip install "spec-rag[cli]"') from error
    table = Table(
        title=Text(visible(_shortened(compression.query, 100))),
        title_justify="left",
        caption=Text(_cost(compression)),
        caption_justify="left",
        show_footer=True,
    )
    change = _change(compression.tokens_before, compression.tokens_after)
    table.add_column("Document", Text("Total"), overflow="fold", max_width=36)
    table.add_column("Tokens", Text(change), justify="right", no_wrap=True)
    table.add_column("Kept", Text(_percent(compression.ratio)), justify="right", no_wrap=True)
    over = f", exceeded by {compression.over_budget:,}" if compression.over_budget else ""
    table.add_column("Most important", Text(f"budget {compression.budget_tokens:,} tokens{over}"), ratio=1)
    for number, document in enumerate(compression.documents, 1):
        table.add_row(
            _labelled(document, number),
            Text(_change(document.tokens_before, document.tokens_after)),
            Text(_percent(document.ratio)),
            Text(visible(_preview(document))),
            style="" if document.text else "dim",
        )
    return table


def compression_html(compression: CompressionData) -> str:
    """A self-contained page: kept text on a mark, dropped text grey, importance as a line, the numbers above.

    Colours are those of the server's page. Styles hold for one class, so that notebooks can show the page as well.
    """
    units = [unit.importance for document in compression.documents for unit in document.units]
    finite = sorted(importance for importance in units if math.isfinite(importance))
    return _template().render(
        compression=compression,
        title=_shortened(compression.query, 80),
        numbers=_numbers(compression),
        settings=", ".join(filter(None, (_setting(name, value) for name, value in compression.settings.items()))),
        width=int(_CHART_WIDTH),
        height=int(_CHART_HEIGHT),
        bars=list(_bars(compression)),
        styles=resources.files("spec_rag").joinpath("data", "marks.css").read_text(encoding="utf-8"),
        sections=[_section(document, i, finite) for i, document in enumerate(compression.documents, 1)],
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    source = resources.files("spec_rag").joinpath("data", "report.html.jinja").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(source)


@dataclass(frozen=True)
class _Bar:
    """A unit in the chart: as wide as its text, as high as its importance."""

    kept: bool
    left: float
    width: float
    height: float
    hint: str


def _bars(compression: CompressionData) -> Iterator[_Bar]:
    documents = [document for document in compression.documents if document.units]
    finite = [u.importance for d in documents for u in d.units if math.isfinite(u.importance)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    low = min(low, 0.0)
    characters = sum(max(len(document.original_text), 1) for document in documents)
    gaps = _CHART_GAP * max(len(documents) - 1, 0)
    scale = max(_CHART_WIDTH - gaps, _CHART_WIDTH / 2) / characters if characters else 0.0
    gap = min(_CHART_GAP, _CHART_WIDTH / 2 / max(len(documents), 1))
    left = 0.0
    for number, document in enumerate(documents, 1):
        for unit in document.units:
            share = (unit.importance - low) / (high - low) if high > low else 1.0
            share = min(max(share, 0.0), 1.0) if not math.isnan(share) else 0.0
            yield _Bar(
                unit.kept,
                left + unit.start * scale,
                max((unit.end - unit.start) * scale, 0.3),
                max(share * _CHART_HEIGHT, 1.0),
                f"{_name(document, number)} · {_hint(unit)}",
            )
        left += max(len(document.original_text), 1) * scale + gap


def _numbers(compression: CompressionData) -> dict[str, str]:
    return {
        "Tokens": _change(compression.tokens_before, compression.tokens_after),
        "Kept": _percent(compression.ratio),
        "Budget": f"{compression.budget_tokens:,}"
        + (f" (exceeded by {compression.over_budget:,})" if compression.over_budget else ""),
        "Documents": f"{sum(1 for d in compression.documents if d.text)} of {len(compression.documents)}",
        "Units": _reasons(compression),
        "Draft": compression.draft or "–",
        "Draft seconds": f"{compression.draft_seconds:.2f}",
    }


def _reasons(compression: CompressionData) -> str:
    """How many units were kept, and why."""
    units = [unit for document in compression.documents for unit in document.units]
    why = Counter(unit.reason for unit in units if unit.reason)
    listed = f" ({', '.join(f'{reason} {count}' for reason, count in why.most_common())})" if why else ""
    return f"{sum(unit.kept for unit in units)} of {len(units)}{listed}"


def _setting(name: str, value: object) -> str:
    if value is None or value == () or (isinstance(value, str) and not value.strip(" …")):
        return ""
    if isinstance(value, bool):
        return name.replace("_", " ") if value else f"no {name.replace('_', ' ')}"
    if value == 0 and name != "threshold":
        return ""
    if isinstance(value, tuple):
        value = " and ".join(str(getattr(one, "pattern", getattr(one, "__name__", one))) for one in value)
    return f"{name.replace('_', ' ')} {value}"


def _section(document: CompressedDocument, number: int, importances: Sequence[float]) -> dict[str, Any]:
    return {
        "name": _name(document, number),
        "source": _source(document),
        "tokens": _change(document.tokens_before, document.tokens_after),
        "share": _percent(document.ratio),
        "pieces": list(_pieces(document, importances)),
    }


@dataclass(frozen=True)
class _Piece:
    """A stretch of the original text.

    Attributes:
        text: the stretch.
        kind: its classes: "kept", "kept held" (kept whatever its importance), "structure" or "dropped".
        hint: its importance, length and reason.
        weight: the share of units that are less important, 0 to 1; None without a line for it.
    """

    text: str
    kind: str
    hint: str = ""
    weight: float | None = None


def _pieces(document: CompressedDocument, importances: Sequence[float]) -> Iterator[_Piece]:
    """The original text from end to end, cut wherever a span or a unit begins or ends. Spans say what was kept."""
    length = len(document.original_text)
    edges = {0, length}
    edges.update(edge for span in document.spans for edge in span)
    edges.update(edge for unit in document.units for edge in (unit.start, unit.end))
    spans, units = document.spans, document.units
    s = u = 0
    for start, end in pairwise(sorted(edge for edge in edges if 0 <= edge <= length)):
        while s < len(spans) and spans[s][1] <= start:
            s += 1
        while u < len(units) and units[u].end <= start:
            u += 1
        text = document.original_text[start:end]
        kept = s < len(spans) and spans[s][0] <= start
        if u == len(units) or units[u].start > start:
            yield _Piece(text, "kept" if kept else "dropped")
        else:
            yield _piece(text, units[u], kept, importances)


def _piece(text: str, unit: KeptUnit, kept: bool, importances: Sequence[float]) -> _Piece:
    if not kept or unit.reason == "structure":
        return _Piece(text, "structure" if kept else "dropped", _hint(unit))
    weight = bisect_left(importances, unit.importance) / len(importances) if math.isfinite(unit.importance) else None
    return _Piece(text, "kept held" if unit.reason in _HELD else "kept", _hint(unit), weight)


def _name(document: CompressedDocument, number: int) -> str:
    return " ".join((document.title or _source(document) or f"Document {number}").split())


def _labelled(document: CompressedDocument, number: int) -> Text:
    from rich.text import Text

    label = Text(visible(_name(document, number)))
    source = _source(document)
    if source and source != _name(document, number):
        label.append("\n" + visible(Path(source).name), style="dim")
    return label


def _source(document: CompressedDocument) -> str:
    """Where a document says it comes from, with its characters if it is a piece of it."""
    metadata = getattr(getattr(document.source, "node", document.source), "metadata", None) or {}
    source = metadata.get("source") or metadata.get("file_path") or metadata.get("file_name") or ""
    if source and "start" in metadata and "end" in metadata:
        return f"{source}:{metadata['start']}-{metadata['end']}"
    return str(source)


def _preview(document: CompressedDocument) -> str:
    best = max((unit for unit in document.units if unit.kept), key=lambda unit: unit.importance, default=None)
    text = document.original_text[best.start : best.end] if best and best.tokens > 3 else document.text
    return _shortened(text, _PREVIEW_CHARS)


def _shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _change(before: int, after: int) -> str:
    return f"{before:,} → {after:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _hint(unit: KeptUnit) -> str:
    why = f" · kept: {_WHY[unit.reason]}" if unit.reason else ""
    return f"importance {unit.importance:.4g} · {unit.tokens} tokens{why}"


def _cost(compression: CompressionData) -> str:
    if not compression.draft_seconds:
        return "everything fitted: the draft was not asked"
    read = sum(look.read for look in compression.passages)
    part = "" if read == len(compression.passages) else f", {read} of {len(compression.passages)} passages read"
    return f"draft {compression.draft}: {compression.draft_seconds:.2f} s{part}"
