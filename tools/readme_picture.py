"""Draw docs/pictures/before-after.svg: four retrieved passages, and what a real compression keeps of them.

    python tools/readme_picture.py

The passages are those that BM25 finds in examples/handbook. `compress` runs with the default draft and default settings
except for `ratio`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from spec_rag import Compression, compress
from spec_rag.answering.chunking import retrieve, split_chunks
from spec_rag.loaders.reading import read_files

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "pictures" / "before-after.svg"
QUESTION = "What does the main mirror of the Ostrander reflector weigh?"
PASSAGES, RATIO = 4, 0.25

FONT_SIZE, LINE, CHARACTER = 11, 15, 6.62
BEFORE_X, BEFORE_WIDTH = 24, 82  # pixels; characters
AFTER_X, AFTER_WIDTH = 606, 42
WIDTH, TOP = 908, 96
STYLE = f"""
  text {{ font: {FONT_SIZE}px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #1f2328 }}
  .heading {{ font: 600 14px system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif }}
  .title {{ font-weight: 700; fill: #00695c }}
  .dropped {{ fill: #a8b0b8 }}
  .kept {{ fill: #0d1117 }}
"""

Span = tuple[int, int]


def wrapped(text: str, width: int) -> Iterator[Span]:
    """Half-open character ranges of the lines of a text, at most `width` characters long; blank lines are left out."""
    for row in re.finditer(r"[^\n]+", text):
        start = end = row.start()
        for word in re.finditer(r"\S+", row[0]):
            if row.start() + word.end() - start > width:
                yield start, end
                start = row.start() + word.start()
            end = row.start() + word.end()
        yield start, end


def segments(line: Span, spans: list[Span]) -> Iterator[tuple[Span, str]]:
    """The kept and the dropped parts of a line."""
    position = line[0]
    for start, end in spans:
        start, end = max(start, position), min(end, line[1])
        if start < end:
            yield (position, start), "dropped"
            yield (start, end), "kept"
            position = end
    yield (position, line[1]), "dropped"


def text_at(x: float, y: float, text: str, kind: str) -> str:
    """A text element with its baseline at (x, y), in pixels."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" xml:space="preserve">{escape(text)}</text>'


def drawn(result: Compression) -> str:
    """The SVG: documents with their dropped parts on the left, the shortened documents on the right."""
    before, after = [], []
    y_before = y_after = TOP
    for document in result.documents:
        before.append(text_at(BEFORE_X, y_before, document.title or "", "title"))
        for line in wrapped(document.original_text, BEFORE_WIDTH):
            y_before += LINE
            for (start, end), kind in segments(line, document.spans):
                x = BEFORE_X + (start - line[0]) * CHARACTER
                before += [text_at(x, y_before, document.original_text[start:end], kind)] if start < end else []
        y_before += 2 * LINE
        if document.text:
            after.append(text_at(AFTER_X, y_after, document.title or "", "title"))
            for start, end in wrapped(document.text, AFTER_WIDTH):
                y_after += LINE
                after.append(text_at(AFTER_X, y_after, document.text[start:end], "kept"))
            y_after += 2 * LINE
    height = max(y_before, y_after)
    tokens = [sum(document.tokens_before for document in result.documents)]
    tokens.append(sum(document.tokens_after for document in result.documents))
    headings = [
        text_at(BEFORE_X, 34, f"Question: {result.query}", "heading"),
        text_at(BEFORE_X, 66, f"Retrieved: {tokens[0]} tokens (grey is dropped)", "heading"),
        text_at(AFTER_X, 66, f"What the model reads: {tokens[1]} tokens", "heading"),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'role="img" aria-label="Retrieved passages with dropped sentences in grey, and the kept text">',
            f"<style>{STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="#ffffff" stroke="#d0d7de"/>',
            f'<path d="M 586.5 52 V {height - 20}" stroke="#d0d7de"/>',
            *headings,
            *before,
            *after,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Compress the passages and write the picture."""
    files = read_files(sorted((ROOT / "examples" / "handbook").glob("[0-9]*.md")))
    chunks = [chunk for file in files for chunk in split_chunks(file)]
    result = compress(retrieve(QUESTION, chunks, top_k=PASSAGES), QUESTION, ratio=RATIO)
    PICTURE.write_text(drawn(result), encoding="utf-8")


if __name__ == "__main__":
    main()
