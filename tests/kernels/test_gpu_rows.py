"""The GPU run keeps what it found: a case that fails is a row, a page is whole, a goal is judged by its worst row."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType

import pytest
from kernel_cases import BENCHMARKS, load_benchmark


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return load_benchmark("gpu_rows")


def out_of_memory() -> dict[str, float]:
    raise RuntimeError("CUDA out of memory")


def test_a_case_that_fails_is_a_row_and_the_next_goes_on(rows: ModuleType, tmp_path: Path) -> None:
    recorder = rows.Recorder("kernels", tmp_path / "rows.jsonl", time.time() + 60)
    assert not recorder.run("too large", out_of_memory)
    assert recorder.run("small", lambda: {"µs": 2.5})
    assert not recorder.run("long", lambda: {"µs": 1.0}, expected_seconds=1000)
    found = rows.read_rows(tmp_path / "rows.jsonl")
    assert [row.status for row in found] == [rows.FAILED, rows.OK, rows.SKIPPED]
    assert "CUDA out of memory" in found[0].note
    assert found[1].figures == {"µs": 2.5}


def test_an_unfinished_line_does_not_count(rows: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows.Recorder("kernels", path, time.time() + 60).add("whole")
    path.write_text(path.read_text() + '{"stage": "kern')
    assert [row.case for row in rows.read_rows(path)] == ["whole"]


def test_a_page_is_whole_or_what_it_was(rows: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "gpu.md"

    def write(text: str, fails: bool) -> None:
        with rows.whole_file(page) as path:
            path.write_text(text)
            if fails:
                raise OSError("no space left on device")

    write("first", fails=False)
    with pytest.raises(OSError, match="no space"):
        write("second", fails=True)
    assert page.read_text() == "first"
    assert [file.name for file in page.parent.iterdir()] == ["gpu.md"]


def test_goals_are_judged_by_the_worst_row_and_only_on_a_gpu(rows: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gpu_rows", rows)
    judge = load_benchmark("gpu_goals")
    found = [
        rows.Row("correctness", "a"),
        rows.Row("kernels", "window_scores, Llama-3.1-8B, 65,536", {"of roofline": 0.9}),
        rows.Row("kernels", "window_scores, Qwen2.5-14B, 65,536", {"of roofline": 0.7}),
        rows.Row("kernels", "gather_kv, Llama-3.1-8B, 65,536", {"of roofline": 0.85}),
        rows.Row("methods-8B", "dense, 8B, 65,536", {"peak GB": 60.0}),
        rows.Row("methods-8B", "SpecKV to 1,024, 8B, 65,536", {"peak GB": 35.0}),
        rows.Row("methods-8B", "overhead of x", {"overhead": 0.04}),
    ]
    verdicts = [line[2] for line in judge.goals(found, on_gpu=True)]
    assert verdicts == ["met", "missed", "met", "not measured", "not measured", "met", "met", "not measured"]
    assert [line[2] for line in judge.goals(found, on_gpu=False)] == ["met", *["not measured"] * 7]
    failed = [*found, rows.Row("correctness", "b", status=rows.FAILED)]
    assert judge.goals(failed, on_gpu=True)[0][2] == "missed"
