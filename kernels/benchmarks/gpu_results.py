"""Results of `gpu_run.py`: rows that the stages record as they run, the goals, and the page."""

import json
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measure import table

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
MET, MISSED, UNKNOWN = "met", "missed", "not measured"
NO_TIME = "no time was left"


@dataclass(frozen=True)
class Row:
    """One case of a stage: its figures by name, with the unit in the name, or a note why there are none."""

    stage: str
    case: str
    figures: dict[str, Any] = field(default_factory=dict)
    status: str = OK
    note: str = ""


class Recorder:
    """Appends rows to a file, so that the rows of an interrupted stage are kept, and tracks the time left."""

    def __init__(self, stage: str, path: Path, deadline: float) -> None:
        self.stage, self.path, self.deadline = stage, path, deadline

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.time()

    def add(self, case: str, figures: dict[str, Any] | None = None, status: str = OK, note: str = "") -> None:
        line = json.dumps(asdict(Row(self.stage, case, figures or {}, status, note)))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def run(self, case: str, measure: Callable[[], dict[str, Any]], expected_seconds: float = 0.0) -> bool:
        """Measure one case and record its figures or its error.

        Returns:
            Whether there are figures.
        """
        if self.seconds_left < expected_seconds:
            self.add(case, status=SKIPPED, note=NO_TIME)
            return False
        try:
            self.add(case, measure())
        except Exception as error:
            self.add(case, status=FAILED, note=error_line(error))
            return False
        finally:
            free_memory()
        return True


def error_line(error: BaseException) -> str:
    """Type, message and location of an error in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    location = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{location}"


def free_memory() -> None:
    """Collect garbage and release cached device memory."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def read_rows(path: Path) -> list[Row]:
    """The rows that a stage has written, without an unfinished last line."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [Row(**json.loads(line)) for line in lines]


def counted(rows: Sequence[Row]) -> str:
    """The number of rows per status."""
    counts = {status: sum(row.status == status for row in rows) for status in (OK, FAILED, SKIPPED)}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing"


def formatted(value: Any) -> str:
    """A figure with three significant digits and thousands separators."""
    if value is None:
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or value == 0 or not math.isfinite(value):
        return f"{value:,}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def rows_table(rows: Sequence[Row]) -> str:
    """A table of one stage: one column per figure, and notes."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    cells = []
    for row in rows:
        note = row.note if row.status == OK else f"{row.status}: {row.note}"
        cells.append([row.case, *(formatted(row.figures.get(name)) for name in names), note])
    return table(["case", *names, "note"], cells)


def by_test(rows: Sequence[Row]) -> list[Row]:
    """The rows of parametrized tests, joined to one row per test function."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.case.partition("[")[0], []).append(row)
    joined = []
    for name, members in sorted(groups.items()):
        counts = {status: sum(row.status == status for row in members) for status in (OK, FAILED, SKIPPED)}
        worst = FAILED if counts[FAILED] else SKIPPED if counts[SKIPPED] else OK
        note = next((row.note for row in members if row.status == worst and row.note), "")
        joined.append(Row(members[0].stage, name, dict(counts), worst, note))
    return joined


def goals(rows: Sequence[Row]) -> list[list[str]]:
    """Goal, figure and verdict of each goal of a run on a GPU; the worst row decides."""
    checks = [row for row in rows if row.stage == "correctness"]
    failed = sum(row.status == FAILED for row in checks)
    passed = sum(row.status == OK for row in checks)
    verdict = UNKNOWN if not checks else MISSED if failed or not passed else MET
    lines = [["all correctness checks pass", f"{passed} passed, {failed} failed", verdict]]

    def figures(name: str, matches: Callable[[str], bool] = lambda case: True) -> list[float]:
        return [float(row.figures[name]) for row in rows if name in row.figures and matches(row.case)]

    def add(goal: str, values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> None:
        worst = (min if math.isinf(most) else max)(values, default=None)
        verdict = UNKNOWN if worst is None else MET if least <= worst <= most else MISSED
        lines.append([goal, formatted(worst), verdict])

    for operator, share in (("window_scores", 0.8), ("gather_kv", 0.8), ("vertical_slash_attention", 0.6)):
        shares = figures("of roofline", lambda case, name=operator: case.startswith(f"{name},") and "65,536" in case)
        add(f"{operator}: share of its roofline at 65,536 tokens >= {share}", shares, least=share)
    add("time of the materialized baseline / time of the kernel >= 1", figures("materialized / ours"), least=1.0)
    add("capture and selection / dense prefill, 65,536 tokens <= 0.05", figures("overhead"), most=0.05)
    at = ", 8B, 65,536"
    dense = figures("peak GB", lambda case: case == f"dense{at}")
    pruned = figures("peak GB", lambda case: case == f"SpecKV to 1,024{at}")
    saved = [dense[0] - pruned[0]] if dense and pruned else []
    add("SpecKV's peak memory below dense, 8B, 65,536 tokens, GB >= 20", saved, least=20.0)
    speedups = figures("TTFT speedup", lambda case: case == f"SpecPC 1/8{at}")
    add("TTFT speedup of SpecPC at 1/8, 8B, 65,536 tokens >= 5", speedups, least=5.0)
    return lines


def page(facts: dict[str, str], stages: Sequence[str], rows: Sequence[Row]) -> str:
    """The Markdown page of a run on a GPU: facts, goals, and a table per stage."""
    verdicts = goals(rows)
    lines = ["# On a GPU", "", "Written by `make gpu`. All figures are from one run.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "## Goals", "", table(["goal", "figure", "verdict"], verdicts)]
    if any(line[2] == MISSED for line in verdicts):
        lines += [
            "",
            "Profile missed goals with `--stages`. Faster tile sizes belong into `spec_rag_kernels/tiles.py`.",
        ]
    for stage in stages:
        members = [row for row in rows if row.stage == stage]
        lines += ["", f"## Stage {stage}", "", rows_table(by_test(members) if stage == "correctness" else members)]
    return "\n".join(lines) + "\n"
