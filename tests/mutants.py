"""Small faults in the code, one at a time: does a test notice? `make mutation`, which installs mutmut.

    python tests/mutants.py [--each 30] [--seed 1] [--module text.units]

mutmut makes the faulty versions of the modules that pyproject.toml names and runs the tests that reach them, in copies
in mutants/. Of each module so many are drawn. A mutant that no test notices is printed; tests/MUTANTS.md says of those
that are known why none can.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]
KILLED = {1, 3, 24, -24, 36, 152, 255}  # exit codes of a worker: a test failed, or the time was up
GOAL = 0.85
SPINNER = re.compile("[\u2800-\u28ff]|$")


def mutmut(*arguments: str) -> str:
    """What the command prints; its words are shown if it fails."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive the forks
    done = subprocess.run(command, cwd=ROOT, env=alone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        said = "\n".join(line for line in done.stdout.splitlines() if not SPINNER.match(line))
        raise SystemExit(f"{said}\nmutmut {arguments[0]} failed.")
    return done.stdout


def results() -> dict[str, dict[str, int | None]]:
    """Of each module the mutants and the exit codes of their tests, None where they were not run."""
    found = {}
    for file in sorted((ROOT / "mutants" / "spec_rag").rglob("*.meta")):
        module = file.relative_to(ROOT / "mutants" / "spec_rag").as_posix().removesuffix(".py.meta").replace("/", ".")
        if mutants := json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]:
            found[module] = mutants
    return found


def drawn(mutants: Iterable[str], each: int, seed: str) -> list[str]:
    """So many of them, the same for the same seed."""
    ordered = sorted(mutants)
    return random.Random(seed).sample(ordered, min(each, len(ordered)))


def line(name: str, codes: Sequence[int | None], of: int) -> str:
    """A row of the table: the share that was noticed, and where that of all of them lies with 95 % confidence."""
    killed = sum(code in KILLED for code in codes)
    interval = binomtest(killed, len(codes)).proportion_ci(method="wilson")
    share = f"{killed:4} of {len(codes):4} (of {of:4})  {100 * killed / len(codes):5.1f} %"
    return f"{name:24} {share}  [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def main() -> int:
    """Draw, run and tell; whether fewer were noticed than should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--each", type=int, default=30, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--module", action="append", help="text.units, attention.capture ...; all without it")
    parser.add_argument("--children", type=int, default=1, help="mutants at a time")
    given = parser.parse_args()
    children = ("--max-children", str(given.children))
    mutmut(
        "run", *children, "spec_rag.attention.token_selection.x_smooth__mutmut_1"
    )  # makes them all, and times the tests
    chosen = {
        module: drawn(mutants, given.each, f"{given.seed}/{module}")
        for module, mutants in results().items()
        if not given.module or module in given.module
    }
    mutmut("run", *children, *(name for names in chosen.values() for name in names))
    found = results()
    survivors = [name for module, names in chosen.items() for name in names if found[module][name] not in KILLED]
    for name in survivors:
        print(f"{name}\n{mutmut('show', name)}", flush=True)
    for module, names in chosen.items():
        print(line(module, [found[module][name] for name in names], len(found[module])))
    everything = [found[module][name] for module, names in chosen.items() for name in names]
    print(line("together", everything, sum(len(found[module]) for module in chosen)))
    return 0 if len(survivors) <= (1 - GOAL) * len(everything) else 1


if __name__ == "__main__":
    sys.exit(main())
