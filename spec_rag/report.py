"""What was kept of the documents, for people: a short table, a page of its own, and a chart.

Everything that comes from a document or a question is escaped. This module reads results; it does not compute any.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from spec_rag.errors import MissingDependencyError
from spec_rag.results import CompressedDocument, Compression, KeptUnit

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_PREVIEW_CHARS = 140
_CHART_WIDTH, _CHART_HEIGHT, _CHART_GAP = 1000.0, 90.0, 4.0

_STYLE = """
.spec-rag { --ink: #16181d; --pale: #b9bec8; --line: #e3e6eb; --paper: #fff; --mark: #1f6feb; --note: #5b6270;
  max-width: 62rem; margin: 0 auto; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
@media (prefers-color-scheme: dark) { .spec-rag { --ink: #f0f2f5; --pale: #5d6470; --line: #30353d; --paper: #14171c;
  --mark: #6cb0ff; --note: #9aa3b2; } body:has(> main.spec-rag) { background: #14171c; } }
.spec-rag h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .9rem; white-space: pre-wrap; }
.spec-rag dl { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 0 0 1.2rem; }
.spec-rag dt { color: var(--note); font-size: .8rem; }
.spec-rag dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
.spec-rag svg { display: block; width: 100%; height: 90px; }
.spec-rag svg .kept { fill: var(--mark); }
.spec-rag svg .dropped { fill: var(--pale); }
.spec-rag svg .base { stroke: var(--line); }
.spec-rag figure { margin: 0 0 1.5rem; }
.spec-rag figcaption { color: var(--note); font-size: .8rem; }
.spec-rag section { border-top: 1px solid var(--line); padding: .9rem 0; }
.spec-rag h2 { font-size: 1rem; margin: 0; }
.spec-rag .numbers { color: var(--note); font-size: .85rem; margin: 0 0 .5rem; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
.spec-rag .text { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.spec-rag .dropped { color: var(--pale); }
.spec-rag .kept { color: var(--ink); }
.spec-rag .text span:hover { background: color-mix(in srgb, var(--mark) 18%, transparent); }
"""


def compression_table(compression: Compression) -> Table:
    """One row per document and a total, for `rich.print`."""
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingDependencyError('The table needs rich: pip install "spec-rag[cli]"') from error
    table = Table(
        title=Text(_shortened(compression.query, 100)),
        title_justify="left",
        caption=Text(_cost(compression)),
        caption_justify="left",
        show_footer=True,
    )
    table.add_column("Document", Text("Total"), overflow="fold", max_width=36)
    table.add_column("Tokens", Text(_change(compression.tokens_before, compression.tokens_after)), justify="right",
                     no_wrap=True)  # fmt: skip
    table.add_column("Kept", Text(_percent(compression.ratio)), justify="right", no_wrap=True)
    table.add_column("Most important", Text(f"budget {compression.budget_tokens:,} tokens"), ratio=1)
    for number, document in enumerate(compression.documents, 1):
        table.add_row(
            _labelled(document, number),
            Text(_change(document.tokens_before, document.tokens_after)),
            Text(_percent(_share(document))),
            Text(_preview(document)),
            style="" if document.text else "dim",
        )
    return table


def compression_html(compression: Compression) -> str:
    """A self-contained page: kept text dark, dropped text pale, importance on hover, the numbers above.

    It is styled under one class, so that it also stands inside a notebook's page.
    """
    sections = "\n".join(_section(document, i) for i, document in enumerate(compression.documents, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(_shortened(compression.query, 80))} · spec-rag</title>
<style>{_STYLE}</style>
</head>
<body style="margin: 0">
<main class="spec-rag">
<h1>{escape(compression.query)}</h1>
{_header(compression)}
<figure>
{importance_svg(compression)}
<figcaption>Importance along the documents: what was kept is coloured. Point at a bar or a sentence to see its \
importance.</figcaption>
</figure>
{sections}
</main>
</body>
</html>
"""


def importance_svg(compression: Compression) -> str:
    """A bar per unit along all documents, as wide as its text and as high as its importance, as an <svg> element."""
    bars = list(_bars(compression))
    drawn = "\n".join(
        f'<rect class="{"kept" if bar.unit.kept else "dropped"}" fill="{"#1f6feb" if bar.unit.kept else "#b9bec8"}" '
        f'x="{bar.left:.2f}" y="{_CHART_HEIGHT - bar.height:.2f}" width="{bar.width:.2f}" height="{bar.height:.2f}">'
        f"<title>{escape(bar.hint)}</title></rect>"
        for bar in bars
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_CHART_WIDTH:g} {_CHART_HEIGHT:g}" '
        f'preserveAspectRatio="none" role="img" aria-label="Importance along the documents">\n'
        f'<line class="base" stroke="#e3e6eb" x1="0" y1="{_CHART_HEIGHT:g}" x2="{_CHART_WIDTH:g}" '
        f'y2="{_CHART_HEIGHT:g}"/>\n{drawn}\n</svg>'
    )


@dataclass(frozen=True)
class _Bar:
    unit: KeptUnit
    left: float
    width: float
    height: float
    hint: str


def _bars(compression: Compression) -> Iterator[_Bar]:
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
                unit,
                left + unit.start * scale,
                max((unit.end - unit.start) * scale, 0.3),
                max(share * _CHART_HEIGHT, 1.0),
                f"{_name(document, number)} · {_hint(unit)}",
            )
        left += max(len(document.original_text), 1) * scale + gap


def _header(compression: Compression) -> str:
    settings = ", ".join(filter(None, (_setting(name, value) for name, value in compression.settings.items())))
    numbers = {
        "Tokens": _change(compression.tokens_before, compression.tokens_after),
        "Kept": _percent(compression.ratio),
        "Budget": f"{compression.budget_tokens:,}",
        "Documents": f"{sum(1 for d in compression.documents if d.text)} of {len(compression.documents)}",
        "Draft": compression.draft or "–",
        "Draft seconds": f"{compression.draft_seconds:.2f}",
    }
    entries = "\n".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in numbers.items())
    note = f'\n<p class="numbers">{escape(settings)}</p>' if settings else ""
    return f"<dl>\n{entries}\n</dl>{note}"


def _setting(name: str, value: object) -> str:
    if value is None or (isinstance(value, str) and not value.strip(" …")):
        return ""
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"


def _section(document: CompressedDocument, number: int) -> str:
    pieces = "".join(
        f'<span class="{"kept" if piece.kept else "dropped"}"'
        + (f' title="{escape(_hint(piece.unit))}"' if piece.unit else "")
        + f">{escape(document.original_text[piece.start : piece.end])}</span>"
        for piece in _pieces(document)
    )
    source = _source(document)
    place = f"{escape(source)} · " if source else ""
    return f"""<section>
<h2>{escape(_name(document, number))}</h2>
<p class="numbers">{place}{_change(document.tokens_before, document.tokens_after)} tokens · \
{_percent(_share(document))} kept</p>
<p class="text">{pieces}</p>
</section>"""


@dataclass(frozen=True)
class _Piece:
    start: int
    end: int
    kept: bool
    unit: KeptUnit | None


def _pieces(document: CompressedDocument) -> Iterator[_Piece]:
    """The original text from end to end, cut wherever a span or a unit begins or ends. Spans say what was kept."""
    length = len(document.original_text)
    edges = {0, length}
    edges.update(edge for span in document.spans for edge in span)
    edges.update(edge for unit in document.units for edge in (unit.start, unit.end))
    cuts = sorted(edge for edge in edges if 0 <= edge <= length)
    spans, units = list(document.spans), list(document.units)
    for start, end in pairwise(cuts):
        while spans and spans[0][1] <= start:
            spans.pop(0)
        while units and units[0].end <= start:
            units.pop(0)
        kept = bool(spans) and spans[0][0] <= start
        unit = units[0] if units and units[0].start <= start else None
        yield _Piece(start, end, kept, unit)


def _name(document: CompressedDocument, number: int) -> str:
    return " ".join((document.title or _source(document) or f"Document {number}").split())


def _labelled(document: CompressedDocument, number: int) -> Text:
    from rich.text import Text

    label = Text(_name(document, number))
    source = _source(document)
    if source and source != label.plain:
        label.append("\n" + Path(source).name, style="dim")
    return label


def _source(document: CompressedDocument) -> str:
    """Where a document says it comes from, with its characters if it is a passage."""
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


def _share(document: CompressedDocument) -> float:
    return document.tokens_after / document.tokens_before if document.tokens_before else 1.0


def _change(before: int, after: int) -> str:
    return f"{before:,} → {after:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _hint(unit: KeptUnit) -> str:
    return f"importance {unit.importance:.4g} · {unit.tokens} tokens"


def _cost(compression: Compression) -> str:
    if not compression.draft_seconds:
        return "everything fitted: the draft was not asked"
    return f"draft {compression.draft}: {compression.draft_seconds:.2f} s"
