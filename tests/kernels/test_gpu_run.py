"""`make gpu`: a failed case is a row, goals are judged by their worst row, and without a GPU no page is written."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kernel_cases import BENCHMARKS, load_benchmark

results = load_benchmark("gpu_results")


def out_of_memory() -> dict[str, float]:
    raise RuntimeError("CUDA out of memory")


def test_a_failed_case_is_a_row_and_the_next_case_runs(tmp_path: Path) -> None:
    recorder = results.Recorder("kernels", tmp_path / "rows.jsonl", time.time() + 60)
    assert not recorder.run("too large", out_of_memory)
    assert recorder.run("small", lambda: {"µs": 2.5})
    assert not recorder.run("long", lambda: {"µs": 1.0}, expected_seconds=1000)
    rows = results.read_rows(tmp_path / "rows.jsonl")
    assert [row.status for row in rows] == [results.FAILED, results.OK, results.SKIPPED]
    assert "CUDA out of memory" in rows[0].note
    assert rows[1].figures == {"µs": 2.5}


def test_an_unfinished_line_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    results.Recorder("kernels", path, time.time() + 60).add("whole")
    path.write_text(path.read_text() + '{"stage": "kern')
    assert [row.case for row in results.read_rows(path)] == ["whole"]


def test_goals_are_judged_by_the_worst_row() -> None:
    rows = [
        results.Row("correctness", "a"),
        results.Row("kernels", "window_scores, Llama-3.1-8B, 65,536", {"of roofline": 0.9}),
        results.Row("kernels", "window_scores, Qwen2.5-14B, 65,536", {"of roofline": 0.7}),
        results.Row("kernels", "gather_kv, Llama-3.1-8B, 65,536", {"of roofline": 0.85}),
        results.Row("answers-8B", "dense, 8B, 65,536", {"peak GB": 60.0}),
        results.Row("answers-8B", "SpecKV to 1,024, 8B, 65,536", {"peak GB": 35.0}),
        results.Row("answers-8B", "capture and selection, 8B, 65,536", {"overhead": 0.04}),
    ]
    verdicts = [line[2] for line in results.goals(rows)]
    assert verdicts == ["met", "missed", "met", "not measured", "not measured", "met", "met", "not measured"]
    failed = [*rows, results.Row("correctness", "b", status=results.FAILED)]
    assert results.goals(failed)[0][2] == "missed"
    page = results.page({"machine": "a GPU"}, ["correctness", "kernels"], rows)
    assert "| window_scores, Qwen2.5-14B, 65,536 " in page
    assert "## Stage answers-8B" not in page


def test_without_a_gpu_it_exits_with_the_alternative_and_writes_no_page(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu_run.py"), "--out", str(page)],
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "no GPU; --device cpu" in run.stderr
    assert not page.exists()


def test_each_tile_choice_is_set_and_restored() -> None:
    pytest.importorskip("triton")
    kernels = load_benchmark("gpu_kernels")
    for tunable in kernels.TUNABLES:
        assert tunable.operator in kernels.OPERATORS
        module = importlib.import_module(f"spec_rag_kernels.{tunable.module}")
        before = getattr(module, tunable.attribute)
        for candidate in tunable.candidates:
            value = kernels.Tiles(*candidate) if isinstance(candidate, tuple) else candidate
            with kernels.tuned(tunable, candidate):
                now = getattr(module, tunable.attribute)
                assert (now(None, 128) if callable(now) else now) == value
        assert getattr(module, tunable.attribute) is before
