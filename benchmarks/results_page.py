"""One HTML page of results that needs no other file: tables, and pictures inside it.

This module does not know what was measured.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment

from spec_rag.utils.atomic_files import write_whole


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        heading: stands above.
        text: paragraphs, separated by blank lines.
        table: in Markdown, or "".
        pictures: PNG files.
    """

    heading: str
    text: str = ""
    table: str = ""
    pictures: Sequence[Path] = ()


def write_page(title: str, about: str, sections: Sequence[Section], path: Path) -> None:
    """Write the page.

    Args:
        title: of the page.
        about: stands below it.
        sections: in their order.
        path: where to.
    """
    template = files("benchmarks").joinpath("results.html.jinja").read_text(encoding="utf-8")
    shown = [
        {
            "heading": section.heading,
            "text": [paragraph for paragraph in section.text.split("\n\n") if paragraph],
            "table": _rows(section.table),
            "pictures": [(p.stem, base64.b64encode(p.read_bytes()).decode("ascii")) for p in section.pictures],
        }
        for section in sections
    ]
    page = Environment(autoescape=True).from_string(template)
    write_whole(path, page.render(title=title, about=about, sections=shown))


def _rows(table: str) -> list[list[str]]:
    """The cells of a Markdown table, its ruler left out."""
    lines = [line.strip().strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for i, line in enumerate(lines) if i != 1]
