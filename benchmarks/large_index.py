"""A large index: how fast it is filled, how many bytes it takes, and how soon a question over it is answered."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.costs import generated_documents
from spec_rag.calibration.generated_questions import generated_questions
from spec_rag.compression.compress import compress
from spec_rag.compression.document_draft import Draft
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.compression.passage_encoding import index_documents
from spec_rag.evaluation.speed import seconds
from spec_rag.text.documents import Document
from spec_rag.text.words import word_overlap
from spec_rag.utils.progress import steps

RETRIEVED = 30
_QUESTIONS = 5
_HELD = 256 * 2**20  # bytes of passages in memory, at most
_PART = 16  # 1/16 is kept


def large_index(draft: Draft, count: int = 2500, tokens: int = 400) -> str:
    """Markdown: generated documents read into an index on disk, then questions over the best of them.

    Args:
        draft: the draft.
        count: documents.
        tokens: of each.
    """
    documents = generated_documents(draft, count, tokens)
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            "| | |",
            "|---|---|",
            *_filled(draft, documents, Path(folder)),
            *_asked(draft, documents, Path(folder)),
        ]
    return "\n".join(lines)


def _filled(draft: Draft, documents: Sequence[Document], folder: Path) -> list[str]:
    peaks: list[int] = []  # in KiB, after each hundredth
    with steps("Indexing", 100) as advance:

        def tell(done: int, total: int) -> None:
            while len(peaks) < 100 * done // total:
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
                advance()

        started = time.perf_counter()
        found = index_documents(documents, draft, DocumentIndex(folder, memory_bytes=_HELD), tell=tell)
        taken = time.perf_counter() - started
    return [
        f"| indexed | {len(documents):,} documents, {found.passages:,} passages, {found.tokens:,} tokens |",
        f"| seconds | {taken:,.0f}, {found.tokens / taken:,.0f} tokens per second |",
        f"| on disk | {found.stored_bytes / 2**20 / found.tokens * 1000:.2f} MiB per 1,000 tokens |",
        f"| peak resident memory, {_HELD // 2**20} MiB of passages held at most | "
        f"{peaks[9] / 2**20:.2f} GiB after a tenth, {peaks[-1] / 2**20:.2f} GiB at the end |",
    ]


def _asked(draft: Draft, documents: Sequence[Document], folder: Path) -> list[str]:
    taken: dict[str, list[float]] = {}

    texts = [document.text for document in documents]
    for case in generated_questions(_QUESTIONS, seed=1):
        scores = word_overlap(case.question, texts)
        best = sorted(range(len(texts)), key=lambda i: -scores[i])[:RETRIEVED]
        for name, found in (
            ("with their scores", [replace(documents[i], score=scores[i]) for i in best]),
            ("without", [documents[i] for i in best]),
        ):
            index = DocumentIndex(folder, memory_bytes=_HELD)
            ask = partial(compress, found, case.question, draft=draft, index=index, ratio=1 / _PART)
            for place in ("disk", "memory"):
                taken.setdefault(f"a question over the {RETRIEVED} best, {name}, from {place}", []).append(seconds(ask))
    return [f"| {name} | {statistics.median(own):.2f} s, at most {max(own):.2f} |" for name, own in taken.items()]
