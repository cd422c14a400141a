"""The small questions over texts of several kinds."""

from __future__ import annotations

import pytest
from tiny import tiny_pair
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.text_kinds import questions_by_kind
from spec_rag.compression.document_draft import Draft
from spec_rag.evaluation.metrics import holds_answer
from spec_rag.text.units import unit_spans

KINDS = questions_by_kind()


def test_there_are_eight_questions_of_each_kind_and_each_has_one_answer() -> None:
    assert {kind: len(asked) for kind, asked in KINDS.items()} == dict.fromkeys(
        ("english", "german", "chinese", "code", "tables"), 8
    )
    for asked in KINDS.values():
        for one in asked:
            assert sum(holds_answer(document.text, one.answers) for document in one.documents) == 1
            assert not holds_answer(one.question, one.answers)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_stands_in_one_of_several_units(kind: str) -> None:
    for one in KINDS[kind]:
        for document in one.documents:
            units = unit_spans(document.text, "sentence", one.language)
            assert len(units) >= 5
            held = [holds_answer(document.text[a:b], one.answers) for a, b in units]
            assert sum(held) == holds_answer(document.text, one.answers)


def test_the_command_prints_a_table_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft.of(tiny_pair())
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_: draft))
    done = CliRunner().invoke(app, ["kinds", "--variants", "BM25 sentences"])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("| answer kept, 8 questions |") == 5
