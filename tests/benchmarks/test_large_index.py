"""The measurement of a large index."""

from __future__ import annotations

import pytest
from tiny import tiny_pair
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.large_index import large_index
from spec_rag.compression.document_draft import Draft


def test_documents_are_indexed_and_asked() -> None:
    rows = dict(row.strip("| ").split(" | ") for row in large_index(Draft.of(tiny_pair()), 40, 60).splitlines()[2:])
    assert rows["indexed"].startswith("40 documents, ")
    assert float(rows["on disk"].split()[0]) > 0
    assert len([name for name in rows if name.startswith("a question over the 30 best")]) == 4


@pytest.mark.parametrize(("what", "given"), [("growth", "3,x"), ("growth", "0"), ("index", "20,30"), ("index", "-1")])
def test_wrong_numbers_of_documents_are_named(what: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft.of(tiny_pair())
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_: draft))
    refused = CliRunner().invoke(app, ["cost", what, f"--documents={given}"])
    assert refused.exit_code == 2
    assert f"--documents {given!r}: " in refused.stderr
