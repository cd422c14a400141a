"""`spec-rag evaluate gate`: a paired verdict with an interval, an exit code, and the number of questions it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spec_rag.cli.app import app
from spec_rag.errors import ConfigError
from spec_rag.evaluation.gate import paired_verdict


def answers(both: int, lost: int, gained: int, neither: int = 0) -> tuple[list[bool], list[bool]]:
    full = [True] * (both + lost) + [False] * (gained + neither)
    return full, [True] * both + [False] * lost + [True] * gained + [False] * neither


@pytest.mark.parametrize(
    ("counts", "margin", "outcome"),
    [
        ((5, 0, 0), 0.02, "undecided"),  # five equal answers show nothing
        ((2000, 3, 3), 0.02, "equivalent"),
        ((900, 100, 0), 0.02, "different"),
        ((900, 0, 100), 0.02, "different"),
        ((90, 5, 5), 0.02, "undecided"),
        ((50, 5, 5), 0.2, "equivalent"),
    ],
)
def test_the_verdict_follows_from_the_interval(counts: Any, margin: float, outcome: str) -> None:
    verdict = paired_verdict(*answers(*counts), margin)
    assert verdict.outcome == outcome
    assert verdict.low < verdict.compressed - verdict.full + 1e-9 < verdict.high + 2e-2
    assert (verdict.lost, verdict.gained) == counts[1:]


def test_it_says_how_many_questions_it_would_take_and_that_many_are_enough() -> None:
    verdict = paired_verdict(*answers(90, 5, 5), 0.02)
    assert verdict.needed is not None
    more = verdict.needed // 100 + 1
    assert paired_verdict(*answers(90 * more, 5 * more, 5 * more), 0.02).outcome == "equivalent"
    assert f"{verdict.needed:,} questions" in str(verdict)
    assert paired_verdict(*answers(90, 10, 0), 0.02).needed is None


@pytest.mark.parametrize(
    ("full", "compressed", "margin"), [([], [], 0.1), ([True], [], 0.1), ([True], [True], 0), ([True], [True], 1)]
)
def test_what_cannot_be_compared_is_refused(full: list[bool], compressed: list[bool], margin: float) -> None:
    with pytest.raises(ConfigError):
        paired_verdict(full, compressed, margin)


@pytest.mark.parametrize(("lost", "code", "word"), [(0, 0, "Equivalent"), (40, 1, "Different"), (6, 3, "Undecided")])
def test_the_exit_code_is_for_ci(
    lost: int, code: int, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    row = {"answers": ["red"], "documents": ["The tank is red."]}
    path.write_text("\n".join(json.dumps({**row, "question": f"Colour {i}?"}) for i in range(80)))
    records = []
    for i in range(80):
        for method in ("all documents", "compressed to 0.25"):
            answer = "blue" if method != "all documents" and i < lost else "red"
            records.append(json.dumps({"method": method, "question": f"Colour {i}?", "answer": answer}))
    out.write_text("\n".join(records) + "\n")
    monkeypatch.setattr("spec_rag.models.model_pair.ModelPair.load", lambda *names: None)
    given = ["evaluate", "gate", str(path), "--budget", "0.25", "--margin", "0.1", "--out", str(out)]
    result = CliRunner().invoke(app, given)
    assert (result.exit_code, word in result.output) == (code, True), result.output
