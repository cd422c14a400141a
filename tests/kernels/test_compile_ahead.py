"""The kernels compile for sm_80 and sm_90 without a GPU: no register spills, and shared memory within the limit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_cases import BENCHMARKS, KERNELS_PATH

pytest.importorskip("triton.backends.nvidia")
pytest.importorskip(
    "triton", minversion="3.6"
)  # older versions do not tell the paths of their assembler and disassembler
SHARED_LIMIT = {"sm_80": 99 * 1024, "sm_90": 227 * 1024}


def test_default_tilings_spill_nothing_and_fit_into_shared_memory(tmp_path: Path) -> None:
    rows_file = tmp_path / "rows.json"
    environment = os.environ | {"PYTHONPATH": KERNELS_PATH, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    # An interpreted kernel cannot be compiled.
    environment.pop("TRITON_INTERPRET", None)
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(BENCHMARKS / "compile_ahead.py"),
        "--quick",
        "--json",
        str(rows_file),
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    print(run.stdout)
    rows = json.loads(rows_file.read_text())
    assert {row["target"] for row in rows} == {"sm_80", "sm_90"}
    assert len({row["kernel"] for row in rows}) == 5
    for row in rows:
        assert row["registers"] > 0, row
        assert row["spill_bytes"] == 0, row
        assert row["shared_bytes"] < SHARED_LIMIT[row["target"]], row
    on_hopper = [row for row in rows if (row["target"], row["head_dim"], row["options"]) == ("sm_90", 128, "plain")]
    exponentials = {row["kernel"]: row["exponentials_per_logit"] for row in on_hopper}
    # One per logit; one per key and head where a maximum is reduced.
    assert 1 <= exponentials["window_scores: logsumexp"] < 1.2
    assert exponentials["window_scores: reduce"] < 0.2
    assert 1 <= exponentials["vertical_slash_attention"] < 1.2
