"""What share of each room's statements and branches the tests ran; fails where the core's is too small.

    make coverage                                     # runs the tests, then this
    python tools/coverage_by_room.py [--least 95]     # .coverage again, without a run

The core is what both jobs stand on and the jobs themselves. The other rooms are told beside it and have no bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coverage import Coverage

ROOT = Path(__file__).parents[1]
GROUND, KERNELS = "spec_rag/*.py", "kernels"
CORE = (GROUND, "text", "models", "attention", "compression", "generation", KERNELS)


@dataclass
class Share:
    """Statements and branches of a room, and how many of them ran."""

    statements: int = 0
    ran: int = 0
    branches: int = 0
    taken: int = 0

    def add(self, summary: dict[str, Any]) -> None:
        """Count a file in."""
        self.statements += summary["num_statements"]
        self.ran += summary["covered_lines"]
        self.branches += summary["num_branches"]
        self.taken += summary["covered_branches"]

    @property
    def percent(self) -> tuple[float, float]:
        """Of statements and of branches; of none it is all."""
        return 100 * self.ran / max(self.statements, 1), 100 * self.taken / self.branches if self.branches else 100.0


def summaries() -> dict[Path, dict[str, Any]]:
    """What coverage found in each file, by its path from the root."""
    measured = Coverage(config_file=str(ROOT / "pyproject.toml"))
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(file))
        found = json.loads(file.read_text(encoding="utf-8"))["files"]
    return {(ROOT / path).resolve().relative_to(ROOT): one["summary"] for path, one in found.items()}


def room(path: Path) -> str:
    """The folder of the package that a file is in."""
    if path.parts[0] == "kernels":
        return KERNELS
    return path.parts[1] if len(path.parts) > 2 else GROUND


def main() -> int:
    """Print the table; whether the core or a room of it is under the bound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--least", type=float, default=95.0, help="percent of the core's branches and statements")
    least = parser.parse_args().least
    rooms: defaultdict[str, Share] = defaultdict(Share)
    core = Share()
    for path, summary in summaries().items():
        rooms[room(path)].add(summary)
        if room(path) in CORE:
            core.add(summary)
    print(f"{'':14} statements           branches")
    others = sorted(rooms.keys() - set(CORE))
    for name, share in [*((name, rooms[name]) for name in CORE), ("the core", core), *((n, rooms[n]) for n in others)]:
        lines, branches = share.percent
        print(f"{name:14} {share.statements:6} {lines:7.1f} %     {share.branches:6} {branches:7.1f} %")
    short = [name for name in CORE if min(rooms[name].percent) < least]
    if short:
        print(f"under {least:g} %: {', '.join(short)}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
