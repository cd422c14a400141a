"""Cases go out to peers and their results come back as lines of the grid."""

from __future__ import annotations

import importlib.util
import json
import sys
from argparse import Namespace
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
from readings import words
from tiny import tiny_pair
from typer.testing import CliRunner

from benchmarks import peer_results as peers
from benchmarks import stages
from benchmarks.__main__ import app
from benchmarks.grid import Tasks
from benchmarks.ruler import ruler_cases
from benchmarks.sources import file_tasks
from benchmarks.timings import Timed
from spec_rag.compression.document_draft import Draft
from spec_rag.evaluation.json_lines import read_lines

RUNNERS = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture
def exchange() -> ModuleType:
    spec = importlib.util.spec_from_file_location("exchange", RUNNERS / "exchange.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made() -> list[Tasks]:
    return [Tasks({"niah_multivalue": ruler_cases("niah_multivalue", words, 300, 2, 7)}, 300, 7)]


def test_a_case_comes_back_as_it_went(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(
        json.dumps({"question": "Who?", "answers": ["Fenn"], "documents": [{"title": "T", "text": "Fenn bakes."}]}),
        encoding="utf-8",
    )
    for tasks in (*made(), file_tasks([path])):
        for line in peers.case_lines([tasks], ["1/8"], words):
            row = json.loads(line)
            case = peers.case_of(row)
            assert case in tasks.cases[case.task]
            assert case.address == row["case"]
            assert row["messages"][1]["content"].endswith(f"Question: {case.question}")


def test_results_are_judged_like_the_package_s_own(tmp_path: Path) -> None:
    cases, results = tmp_path / "cases.jsonl", tmp_path / "results.jsonl"
    lines = peers.case_lines(made(), ["1/8"], words)
    cases.write_text("\n".join(lines), encoding="utf-8")
    row = json.loads(lines[1])
    own = {"case": row["case"], "version": "peer 1", "budget": "1/8", "seconds": 2.0}
    told = [
        {**own, "method": "keeps", "kept": " and ".join(row["answers"][:2])},
        {**own, "method": "answers", "answer": row["answers"][0], "kv_bytes": 8},
        {**own, "case": "another", "method": "keeps", "kept": ""},
    ]
    results.write_text("\n".join(map(json.dumps, told)), encoding="utf-8")
    kept, answered = peers.judged(cases, results, "draft")
    assert (kept.score, kept.target, kept.number, kept.seed, kept.cell) == (
        0.5, None, 1, 7, "niah_multivalue, 300 tokens"
    )  # fmt: skip
    assert (answered.score, answered.target, answered.exact_match, answered.kv_bytes) == (0.25, "draft", 1.0, 8)
    assert kept.code == "peer 1"


def test_a_runner_goes_on_and_leaves_out_what_a_peer_cannot_do(
    tmp_path: Path, exchange: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = peers.case_lines(made(), ["1/8", "1/4"], words)
    given = Namespace(cases=tmp_path / "cases.jsonl", out=tmp_path / "out.jsonl", methods="")
    given.cases.write_text("\n".join(lines), encoding="utf-8")
    asked: list[float] = []

    def method(case: dict[str, object], share: float) -> dict[str, object]:
        asked.append(share)
        if case["number"] == 0 and len(asked) == 1:
            raise ValueError("too long")
        return {"kept": ""}

    exchange.run(given, {"one": method}, "peer 1")
    assert asked == [0.125, 0.25] * 2
    assert "one, niah_multivalue 0, 1/8: ValueError('too long')" in capsys.readouterr().err
    exchange.run(given, {"one": method}, "peer 1")
    assert asked[4:] == [0.125]  # what failed is tried again, and nothing else
    assert [Fraction(line["budget"]) for line in map(json.loads, given.out.read_text().splitlines())] == [
        Fraction(1, 4), Fraction(1, 8), Fraction(1, 4), Fraction(1, 8)
    ]  # fmt: skip


def test_a_runner_times_each_line_of_its_table_once(tmp_path: Path, exchange: ModuleType) -> None:
    given = Namespace(timings=tmp_path / "timings.jsonl", out=tmp_path / "out.jsonl")
    asked = [{"table": "generation", "size": 512}, {"table": "compression", "size": 10}]
    given.timings.write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    sizes: list[int] = []
    ways = {"one": lambda line: {"seconds": float(sizes.append(line["size"]) or 2)}}
    exchange.run_timings(given, "compression", ways, "peer 1")
    exchange.run_timings(given, "compression", ways, "peer 1")
    assert sizes == [10]
    assert read_lines(given.out, Timed.from_json) == [Timed("compression", 10, "one", {"seconds": 2.0}, "peer 1")]


def test_commands_write_a_stage_s_cases_and_read_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft.of(tiny_pair())
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_: draft))
    few = stages.Stage("few", "", "", "kept", (), ("1/2",), tasks=("niah_single_2",), tokens=(900,), cases=2)
    filed = stages.Stage("filed", "", "", "kept", (), ("1/2",), "none.jsonl")
    monkeypatch.setattr(stages, "STAGES", (few, filed))
    cases, results = tmp_path / "cases.jsonl", tmp_path / "results.jsonl"
    own = ["peer-cases", "few", "--out", str(cases), "--budgets", "1/8"]
    done = CliRunner().invoke(app, own)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in cases.read_text(encoding="utf-8").splitlines()]
    assert [row["budgets"] for row in rows] == [["1/8"]] * 2
    told = {"case": rows[0]["case"], "method": "peer", "version": "1", "budget": "1/8", "seconds": 1, "kept": ""}
    results.write_text(json.dumps(told), encoding="utf-8")
    out = tmp_path / "few.peer.jsonl"
    done = CliRunner().invoke(app, ["peer-results", str(cases), str(results), "--out", str(out)])
    assert "| niah_single_2, 900 tokens, 1 | peer |" in done.stdout
    assert json.loads(out.read_text(encoding="utf-8"))["method"] == "peer"
    for wrong, says in (("other", "stage 'other' is not one of few, filed"), ("filed", "needs none.jsonl")):
        refused = CliRunner().invoke(app, ["peer-cases", wrong, "--out", str(cases)])
        assert refused.exit_code == 2
        assert says in " ".join(refused.stderr.split())


def test_an_older_checkpoint_has_its_settings_under_old_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(RUNNERS), *sys.path])
    spec = importlib.util.spec_from_file_location("run_llmlingua", RUNNERS / "run_llmlingua.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    folder, older = tmp_path / "new", tmp_path / "old"
    folder.mkdir()
    older.mkdir()
    config = {"rope_parameters": {"rope_theta": 500.0}, "dtype": "float32", "hidden_size": 8}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"x")
    assert runner.older_checkpoint(folder, older) == str(older)
    assert json.loads((older / "config.json").read_text()) == {
        "rope_theta": 500.0, "torch_dtype": "float32", "hidden_size": 8
    }  # fmt: skip
    assert (older / "model.safetensors").read_bytes() == b"x"
