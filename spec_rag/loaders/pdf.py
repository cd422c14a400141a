"""PDF files: paragraphs with the index of each page's first character, and the title of the document properties."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from typing import Any

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders import pdf_worker
from spec_rag.loaders.pdf_layout import page_texts
from spec_rag.loaders.pdf_lines import Line, Page
from spec_rag.loaders.source import Content, SourceFile, check_size, too_slow
from spec_rag.utils.forking import new_lock

_WORKER = "from spec_rag.loaders.pdf_worker import main; main()"
_MOST_SECONDS = 10**6  # a longer wait is none
# titles that programs set by themselves
_NO_TITLE = re.compile(
    r"(untitled|title|document\d*|microsoft (word|powerpoint|excel)\b.*|(powerpoint )?presentation|slide \d+|"
    r"[^ ]+\.(dvi|tex|docx?|pptx?|xlsx?|indd|qxd|pdf|ps|rtf|odt|html?|md|txt|p65|pmd))",
    re.IGNORECASE,
)
_in_process = new_lock()


def read(source: SourceFile) -> Content:
    """The text of a PDF.

    Lines of a paragraph are joined. Running heads and feet, page numbers and the lines of a table of contents are left
    out.

    Raises:
        UnreadableFileError: it is damaged or encrypted, has no text or too many pages, or takes too long.
    """
    found = _extracted(source)
    if "error" in found:
        raise _error(source, *found["error"])
    pages = [
        Page(page["width"], page["height"], [Line(*line) for line in page["lines"] if line[0].strip()])
        for page in found["pages"]
    ]
    if not any(page.lines for page in pages):
        raise UnreadableFileError(
            f"{source.path} holds no text on its {len(pages)} pages: it is probably a scan. Run text recognition on it "
            "first (e.g. ocrmypdf)."
        )
    text, starts = page_texts(pages, source.check)
    metadata: dict[str, Any] = {"page_starts": starts}
    title = " ".join(str(found["title"]).replace("\x00", "").split())
    if not title or _NO_TITLE.fullmatch(title):
        return Content(text, None, metadata)
    return Content(text, title, {**metadata, "title": title})


def _extracted(source: SourceFile) -> dict[str, Any]:
    """What `pdf_worker.extract` returns, or {"error": [reason, details]}."""
    limits = source.limits
    if not sys.executable:  # Python inside another program cannot be started a second time
        with _in_process:
            try:
                return pdf_worker.extract(source.data, int(limits.max_pages), limits.max_seconds, int(limits.max_bytes))
            except pdf_worker.ExtractionError as error:
                return {"error": list(error.args)}
    arguments = [str(int(min(limits.max_pages, 2**31))), repr(float(limits.max_seconds)), str(int(limits.max_bytes))]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _WORKER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"},
    ) as process:
        try:
            output, _ = process.communicate(source.data, timeout=min(limits.wall_seconds, _MOST_SECONDS))
        except subprocess.TimeoutExpired as error:
            raise too_slow(source.path, limits) from error
        finally:
            process.kill()
    if process.returncode == -getattr(signal, "SIGXCPU", math.inf):
        raise too_slow(source.path, limits)
    try:
        found: dict[str, Any] = json.loads(output)
    except ValueError:
        return {"error": [pdf_worker.DAMAGED, f"the reader ended with exit status {process.returncode}"]}
    return found


def _error(source: SourceFile, reason: str, details: str) -> UnreadableFileError:
    if reason == pdf_worker.PASSWORD:
        return UnreadableFileError(f"{source.path} is protected by a password: save a copy without it.")
    if reason == pdf_worker.TOO_SLOW:
        return too_slow(source.path, source.limits)
    if reason == pdf_worker.TOO_MANY_PAGES:
        return UnreadableFileError(
            f"{source.path} has {details} pages, more than {source.limits.max_pages}: split it, or raise max_pages of "
            "ReadLimits."
        )
    if reason == pdf_worker.TOO_LARGE:
        try:
            check_size(source.path, int(source.limits.max_bytes) + 1, source.limits)
        except UnreadableFileError as error:
            return error
    return source.damaged("PDF", ValueError(details))
