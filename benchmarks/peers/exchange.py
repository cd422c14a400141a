"""What a runner of a peer reads and writes: cases and results as lines of JSON. Needs nothing but Python.

A case has `case` (its address), `documents`, `question`, `messages`, `beginning` (of the answer), `max_new_tokens`,
`budgets` (shares as fractions) and `document_tokens`. A result names the case, the method and its version, the budget,
the seconds, and `kept` (text) or `answer`.

What is timed is a line per table and size; its result names both, the method, its version, and figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any


def arguments(about: str) -> argparse.Namespace:
    """--cases or --timings, --out, --model and --methods."""
    parser = argparse.ArgumentParser(description=about)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--cases", type=Path, help="written by python -m benchmarks peer-cases")
    asked.add_argument("--timings", type=Path, help="written by python -m benchmarks peer-timings")
    parser.add_argument("--out", type=Path, required=True, help="a line per result; a new run goes on from there")
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint that spec-rag reads")
    parser.add_argument("--methods", default="", help="only these, separated by commas")
    return parser.parse_args()


def run(
    given: argparse.Namespace,
    methods: dict[str, Callable[[dict[str, Any], float], dict[str, Any]]],
    version: str,
) -> None:
    """Every method on every case at every budget; what stands in the file already is left out.

    A method is a function from a case and a share to `kept` or `answer`, and perhaps `kv_bytes`. What it cannot do is
    written to stderr and left out.
    """
    chosen = [name.strip() for name in given.methods.split(",") if name.strip()] or list(methods)
    done = {(line["case"], line["method"], line["budget"]) for line in _lines(given.out)}
    with given.out.open("a", encoding="utf-8") as out:
        for number, case in enumerate(_lines(given.cases), start=1):
            for name in chosen:
                for budget in case["budgets"]:
                    if (case["case"], name, budget) in done:
                        continue
                    started = time.perf_counter()
                    try:
                        found = methods[name](case, float(Fraction(budget)))
                    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
                        print(f"{name}, {case['task']} {case['number']}, {budget}: {error!r}", file=sys.stderr)
                        continue
                    seconds = time.perf_counter() - started
                    own = {
                        "case": case["case"],
                        "method": name,
                        "version": version,
                        "budget": budget,
                        "seconds": seconds,
                    }
                    out.write(json.dumps({**own, **found}) + "\n")
                    out.flush()
            if sys.stderr.isatty():
                print(f"\r{number} cases", end="", file=sys.stderr)


def run_timings(
    given: argparse.Namespace,
    table: str,
    methods: dict[str, Callable[[dict[str, Any]], dict[str, float]]],
    version: str,
) -> None:
    """Every method on every line of a table; what stands in the file already is left out.

    A method is a function from a line to its figures.
    """
    done = {(line["size"], line["method"]) for line in _lines(given.out)}
    with given.out.open("a", encoding="utf-8") as out:
        for line in _lines(given.timings):
            for name, method in methods.items():
                if line["table"] != table or (line["size"], name) in done:
                    continue
                row = {"table": table, "size": line["size"], "method": name, "figures": method(line), "code": version}
                out.write(json.dumps(row) + "\n")
                out.flush()
                if sys.stderr.isatty():
                    print(f"{name}, {line['size']}", file=sys.stderr)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)
