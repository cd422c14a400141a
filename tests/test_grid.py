"""`spec-rag evaluate run`: tasks by methods by budgets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_pair
from typer.testing import CliRunner

from spec_rag.cli.app import app
from spec_rag.compression.draft import Draft
from spec_rag.errors import UnreadableFileError
from spec_rag.evaluation import grid
from spec_rag.evaluation.methods.variants import PARTS, Case


@pytest.fixture
def draft(monkeypatch: pytest.MonkeyPatch) -> Draft:
    own = Draft.of(tiny_pair())
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_: own))
    return own


def arguments(folder: Path, tasks: str = "niah_multivalue,vt") -> list[str]:
    methods = "BM25 sentences, truncation to the head"
    own = ["--tasks", tasks, "--tokens", "1500", "--cases", "3", "--methods", methods]
    return ["evaluate", "run", *own, "--out", str(folder / "out.jsonl"), "--charts", str(folder / "charts")]


def test_each_example_is_a_line_and_each_cell_has_its_interval(tmp_path: Path, draft: Draft) -> None:
    done = CliRunner().invoke(app, arguments(tmp_path))
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2 * 3 * 2 * len(PARTS)
    cell = [
        line["score"] for line in lines
        if (line["task"], line["method"], line["part"]) == ("niah_multivalue", "BM25 sentences", 4)
    ]  # fmt: skip
    assert f"| niah_multivalue | BM25 sentences | {sum(cell) / 3:.3f} [" in done.stdout
    assert sum(cell) / 3 > 0.9  # the needles have the question's words
    assert {path.name for path in (tmp_path / "charts").iterdir()} == {"niah_multivalue.png", "vt.png"}


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
    monkeypatch.setattr(grid, "Case", None)
    assert CliRunner().invoke(app, arguments(tmp_path)).stdout == first.stdout
    other = CliRunner().invoke(app, [*arguments(tmp_path), "--seed", "1"])
    assert isinstance(other.exception, TypeError)  # other examples are not taken for known ones
    assert Case is not None


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text("hello\nworld\n", encoding="utf-8")
    with pytest.raises(UnreadableFileError, match=r"other.jsonl, line 1: .* give another file"):
        grid.read_scored(path)
    assert path.read_text(encoding="utf-8") == "hello\nworld\n"


def test_a_task_that_is_none_is_named(tmp_path: Path, draft: Draft) -> None:
    refused = CliRunner().invoke(app, arguments(tmp_path, "niah"))
    assert refused.exit_code == 2
    assert "task='niah': must be one of niah_single_1" in refused.stderr
