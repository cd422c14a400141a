"""Jupyter notebooks: Markdown cells as they are, code cells fenced, and the beginning of their text outputs.

Pictures and other outputs that are not text are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from spec_rag.loaders.plain_text import decoded, first_heading
from spec_rag.loaders.source import Content, SourceFile

OUTPUT_CHARACTERS = 1000
"""Characters of the outputs of a cell; what is longer is cut, which a line says."""

_KIND = "Jupyter notebook"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]")
_TICKS = re.compile(r"`{3,}")


def read(source: SourceFile) -> Content:
    """The cells of a notebook, with the first heading as the title.

    Raises:
        UnreadableFileError: it is not JSON, or not a notebook.
    """
    text = decoded(source.path, source.data, source.encoding)
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise source.damaged(_KIND, error) from error
    source.check()
    if not isinstance(notebook, dict):
        raise source.damaged(_KIND, ValueError("it is not a JSON object"))
    cells = _objects(notebook.get("cells"))
    if cells is None:  # format 3
        sheets = _objects(notebook.get("worksheets"))
        cells = None if sheets is None else [cell for sheet in sheets for cell in _objects(sheet.get("cells")) or ()]
    if cells is None:
        raise source.damaged(_KIND, ValueError("it has no list of cells"))
    parts = [part for cell in cells for part in _cell(cell, _language(notebook))]
    markdown = "\n\n".join(_joined(cell.get("source")) for cell in cells if cell.get("cell_type") == "markdown")
    return Content("\n\n".join(part for part in parts if part.strip()), first_heading(markdown))


def _cell(cell: Mapping[str, Any], language: str) -> Iterator[str]:
    kind = cell.get("cell_type")
    text = _joined(cell.get("source", cell.get("input"))).rstrip("\n")
    if kind == "heading":  # format 3
        level = cell.get("level")
        yield f"{'#' * (level if isinstance(level, int) and 1 <= level <= 6 else 1)} {text}"
    elif kind != "code":
        yield text
    elif text.strip():
        yield _fenced(text, language)
    if kind == "code":
        yield _outputs(cell.get("outputs"))


def _outputs(outputs: Any) -> str:
    """The text outputs of a cell, cut to `OUTPUT_CHARACTERS`."""
    text = "\n".join(filter(None, map(_output, _objects(outputs) or ())))
    if not text:
        return ""
    if len(text) > OUTPUT_CHARACTERS:
        text = f"{text[:OUTPUT_CHARACTERS]}\n[{len(text) - OUTPUT_CHARACTERS} more characters of output]"
    return _fenced(text, "")


def _output(output: Mapping[str, Any]) -> str:
    if output.get("output_type") in ("error", "pyerr"):
        return f"{output.get('ename', '')}: {output.get('evalue', '')}"
    data = output.get("data")
    text = data.get("text/plain") if isinstance(data, dict) else output.get("text")
    return _ESCAPES.sub("", _joined(text)).strip("\n")


def _fenced(text: str, language: str) -> str:
    ticks = max((len(found) for found in _TICKS.findall(text)), default=2) + 1
    fence = "`" * max(ticks, 3)
    return f"{fence}{language}\n{text}\n{fence}"


def _language(notebook: Mapping[str, Any]) -> str:
    metadata = notebook.get("metadata")
    information = metadata.get("language_info", metadata.get("kernelspec")) if isinstance(metadata, dict) else None
    name = information.get("name") if isinstance(information, dict) else None
    return name if isinstance(name, str) and name.isalnum() else ""


def _joined(text: Any) -> str:
    """The text of a field, which is a string or a list of lines."""
    if isinstance(text, list):
        return "".join(line for line in text if isinstance(line, str))
    return text if isinstance(text, str) else ""


def _objects(value: Any) -> list[dict[str, Any]] | None:
    """The value if it is a list of JSON objects."""
    return value if isinstance(value, list) and all(isinstance(entry, dict) for entry in value) else None
