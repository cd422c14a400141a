"""The Triton kernels on Triton's interpreter: runs interpreted_kernels.py in a process with TRITON_INTERPRET=1."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_cases import INTERPRETER_SINCE

pytest.importorskip("triton", minversion=INTERPRETER_SINCE)
HERE = Path(__file__).parent
FEWEST = {"nan_in_padding": 1, "soft_cap": 3}


@pytest.mark.parametrize(
    "operator", ["window_scores", "vertical_slash_attention", "gather_kv", "nan_in_padding", "soft_cap"]
)
def test_kernels_agree_with_the_reference_on_the_interpreter(operator: str, seed: int) -> None:
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "SPEC_RAG_TEST_SEED": str(seed),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1] / "kernels"), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("SPEC_RAG_KERNELS", None)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
    ]
    run = subprocess.run(
        [*command, "-k", operator, str(HERE / "interpreted_kernels.py")],
        env=environment,
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    report = f"SPEC_RAG_TEST_SEED={seed}\n{run.stdout[-6000:]}{run.stderr[-2000:]}"
    print(report)
    assert run.returncode == 0, report
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, report
    assert int(passed[1]) >= FEWEST.get(operator, 60), report
