"""What a runner of a peer reads and writes: cases and results as lines of JSON. Needs nothing but Python.

A case has `case` (its address), `documents`, `question`, `messages`, `beginning` (of the answer), `max_new_tokens`,
`budgets` (shares as fractions) and `document_tokens`. A result names the case, the method and its version, the budget,
the seconds, and `kept` (text) or `answer`.
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
    """--cases, --out, --model and --methods."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--cases", type=Path, required=True, help="written by spec-rag evaluate peer-cases")
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


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)
