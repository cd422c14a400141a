"""`python -m benchmarks run`: tasks by methods by budgets."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_pair, tiny_tokenizer
from typer.testing import CliRunner

from benchmarks import grid
from benchmarks import grid_tables as tables
from benchmarks.__main__ import app
from benchmarks.answer_methods import ANSWERERS, Request
from benchmarks.cases import LongCase, question_case
from benchmarks.records import Scored
from benchmarks.sources import file_cases
from spec_rag import ModelPair
from spec_rag.compression.document_draft import Draft
from spec_rag.errors import ConfigError, UnreadableFileError
from spec_rag.evaluation.case import PARTS
from spec_rag.evaluation.json_lines import read_lines
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.text.documents import Document


@pytest.fixture
def draft(monkeypatch: pytest.MonkeyPatch) -> Draft:
    own = Draft.of(tiny_pair())
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_: own))
    return own


def arguments(folder: Path, tasks: str = "niah_multivalue,vt") -> list[str]:
    methods = "BM25 sentences, truncation to the head"
    own = ["--tasks", tasks, "--tokens", "1500", "--cases", "3", "--methods", methods]
    return ["run", *own, "--out", str(folder / "out.jsonl"), "--charts", str(folder / "charts")]


def test_each_example_is_a_line_and_each_cell_has_its_interval(tmp_path: Path, draft: Draft) -> None:
    done = CliRunner().invoke(app, arguments(tmp_path))
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2 * 3 * 2 * len(PARTS)
    cell = [
        line["score"] for line in lines
        if (line["task"], line["method"], line["budget"]) == ("niah_multivalue", "BM25 sentences", "1/4")
    ]  # fmt: skip
    assert f"| niah_multivalue, 1,500 tokens, 3 | BM25 sentences |  | {sum(cell) / 3:.3f} [" in done.stdout
    assert sum(cell) / 3 > 0.9  # the needles have the question's words
    assert {path.name for path in (tmp_path / "charts").iterdir()} == {
        "niah_multivalue-1500.png",
        "vt-1500.png",
        "index.html",
    }


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    first = CliRunner().invoke(app, arguments(tmp_path))
    path = tmp_path / "out.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]) + lines[-4][:20])
    again = CliRunner().invoke(app, arguments(tmp_path))
    assert again.stdout == first.stdout
    assert [json.loads(line)["score"] for line in path.read_bytes().splitlines()] == [
        json.loads(line)["score"] for line in lines
    ]
    monkeypatch.setattr(grid, "_reading", None)
    assert CliRunner().invoke(app, arguments(tmp_path)).stdout == first.stdout
    other = CliRunner().invoke(app, [*arguments(tmp_path), "--seed", "1"])
    assert isinstance(other.exception, TypeError)  # other examples are not taken for known ones


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text("hello\nworld\n", encoding="utf-8")
    with pytest.raises(UnreadableFileError, match=r"other.jsonl, line 1: .* give another output file"):
        read_lines(path, Scored.from_json)
    assert path.read_text(encoding="utf-8") == "hello\nworld\n"


def test_a_task_that_is_none_is_named(tmp_path: Path, draft: Draft) -> None:
    refused = CliRunner().invoke(app, arguments(tmp_path, "niah"))
    assert refused.exit_code == 2
    assert "task='niah': must be one of niah_single_1" in refused.stderr


def test_budgets_are_shares_or_tokens(tmp_path: Path, draft: Draft) -> None:
    own = [*arguments(tmp_path, "vt"), "--budgets", "1/2, 0.1, 300"]
    done = CliRunner().invoke(app, own)
    assert done.exit_code == 0, done.output
    assert "| 300 | 1/2 | 1/10 |" in done.stdout
    refused = CliRunner().invoke(app, [*arguments(tmp_path), "--budgets", "1.5"])
    assert "budget '1.5': give a share such as 1/8" in refused.stderr


def cases() -> list[LongCase]:
    text = "Bread is baked daily. The baker is Odalys Fenn, of Tarn. She sleeps late. " * 4
    documents = [Document(text, title="Bakery"), Document("Ferries leave at noon. Gulls wait. " * 4)]
    return [question_case(AnsweredQuestion(q, ["Fenn"], documents), "own") for q in ("Who bakes?", "Who sleeps?")]


def test_every_method_answers_and_keeps_no_more_than_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = ModelPair(draft=tiny_model(layers=9), target=tiny_model(), tokenizer=tiny_tokenizer(), target_name="tiny")
    case = replace(cases()[0], max_new_tokens=3)
    dense = ANSWERERS["dense"](Request(pair, case, Fraction(1)))
    for name, answerer in ANSWERERS.items():
        request = Request(pair, case, Fraction(1, 4))
        answer = answerer(request)
        assert 0 < answer.completion_tokens <= 3
        if name.startswith("SpecPC"):
            assert answer.target_prompt_tokens <= request.prompt_capacity() < dense.target_prompt_tokens
        elif name == "SpecKV-PC":
            assert answer.target_prompt_tokens <= request.prompt_capacity(2) < dense.target_prompt_tokens
        elif name != "dense":
            layers, heads, width = 3 + 1, 2, 16
            # heads that share a layer's budget are stored as wide as the widest, of at most two shares
            most = request.pairs * (2 if name == "SpecKV" else 1)
            assert 0 < answer.kv_bytes_kept <= most * layers * heads * width * 4 * 2
            assert answer.kv_bytes_kept < answer.kv_bytes_dense


def test_streaming_llm_sees_the_first_pairs_and_the_last() -> None:
    pair = ModelPair(target=tiny_model(), tokenizer=tiny_tokenizer(), target_name="tiny")
    case = replace(cases()[0], max_new_tokens=4)
    whole = ANSWERERS["StreamingLLM"](Request(pair, case, Fraction(1)))
    assert whole.output_ids == ANSWERERS["dense"](Request(pair, case, Fraction(1))).output_ids
    assert whole.kv_bytes_kept == whole.kv_bytes_dense
    few = ANSWERERS["StreamingLLM"](Request(pair, case, Fraction(64)))
    assert few.kv_bytes_kept * (whole.prompt_tokens - 1) == few.kv_bytes_dense * 64


def test_answers_are_written_with_what_they_are_worth(tmp_path: Path) -> None:
    pair = tiny_pair()
    methods = grid.Methods(Draft.of(pair), ["dense", "BM25 sentences", "SnapKV"], (Fraction(1, 2),), pair)
    out = tmp_path / "out.jsonl"
    tasks = grid.Tasks({"own": [replace(case, max_new_tokens=2) for case in cases()]})
    rows = grid.run_grid(tasks, methods, out)
    assert [(row.method, row.budget) for row in rows[:3]] == [
        ("dense", "1"), ("BM25 sentences", "1/2"), ("SnapKV", "1/2")
    ]  # fmt: skip
    assert all(row.target == "tiny-target" and row.answer is not None and row.f1 == 0 for row in rows)
    assert rows[2].kv_bytes
    assert grid.run_grid(tasks, methods, out, deadline=0) == rows  # nothing is left to do
    for other in (replace(methods, code="other"), replace(methods, budgets=(Fraction(1, 3),))):
        assert len(grid.run_grid(tasks, other, out, deadline=0)) < len(rows)  # figures of something else
    embedded = replace(methods, names=["embedding sentences"], embedder_name="other")
    key = embedded.key(cases()[0], "embedding sentences", Fraction(1, 2))
    assert key != replace(embedded, embedder_name="one").key(cases()[0], "embedding sentences", Fraction(1, 2))
    table = tables.grid_table(rows)
    assert table.splitlines()[0] == "| score, examples | method | all | 1/2 |"
    assert "| own, 2 | dense | 0.000 [0.00, 0.00] |  |" in table


def test_methods_that_cannot_be_measured_so_are_named() -> None:
    for name, says in (
        ("SpecKV", "keeps no text"), ("+ embedder", "needs an embedder"), ("best", "'best' is not one of paper")
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            grid.method_names("kept", None, [name])


def test_own_questions_may_have_bare_texts_as_documents(tmp_path: Path, draft: Draft) -> None:
    path = tmp_path / "own.jsonl"
    row = {"question": "Who bakes?", "answers": ["Fenn"], "documents": ["Fenn bakes.", {"title": "T", "text": "Snow."}]}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    case = file_cases(path)[0]
    assert [(d.title, d.text) for d in case.documents] == [(None, "Fenn bakes."), ("T", "Snow.")]
    done = CliRunner().invoke(app, ["run", str(path), "--methods", "BM25 sentences", "--budgets", "1/2"])
    assert "| own, 1 | BM25 sentences |" in done.stdout
    assert CliRunner().invoke(app, ["run"]).exit_code == 2
