"""The measurement of a large index."""

from __future__ import annotations

from tiny import tiny_pair

from spec_rag.compression.draft import Draft
from spec_rag.evaluation.large_index import large_index


def test_documents_are_indexed_and_asked() -> None:
    rows = dict(row.strip("| ").split(" | ") for row in large_index(Draft.of(tiny_pair()), 40, 60).splitlines()[2:])
    assert rows["indexed"].startswith("40 documents, ")
    assert float(rows["on disk"].split()[0]) > 0
    assert len([name for name in rows if name.startswith("a question over the 30 best")]) == 4
