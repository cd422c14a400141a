"""What `on_gpu.py` finds: rows of one stage each, which a stage writes as it goes and which make the pages.

This module knows rows and files; it does not know what is measured.
"""

import json
import math
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measure import table

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
BY_ARITHMETIC = "by arithmetic:"  # what a case is called that was computed and not measured


@dataclass(frozen=True)
class Row:
    """One case of a stage: its figures (units are in their names), or why there are none."""

    stage: str
    case: str
    figures: dict[str, Any] = field(default_factory=dict)
    status: str = OK
    note: str = ""


class Recorder:
    """Appends rows to a file, so that those of a stage that is cut off are there; and knows how much time is left."""

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
        """Measure one case; what goes wrong in it is its row, and the next can go on.

        Returns:
            Whether there are figures.
        """
        if self.seconds_left < expected_seconds:
            self.add(case, status=SKIPPED, note="no time was left")
            return False
        try:
            self.add(case, measure())
        except Exception as error:
            self.add(case, status=FAILED, note=told(error))
            return False
        finally:
            release()
        return True


def told(error: BaseException) -> str:
    """One line that says what went wrong, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def release() -> None:
    """Give back what a case held on the device."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def read_rows(path: Path) -> list[Row]:
    """The rows that a stage has written; an unfinished last line does not count."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [Row(**json.loads(line)) for line in lines]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends well; until then `path` stays what it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(name)
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def shown(value: Any) -> str:
    """A figure as people read it: three digits, and thousands apart."""
    if value is None:
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or value == 0 or not math.isfinite(value):
        return f"{value:,}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def grid(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of rows of one stage: every figure that one of them has, and a note where one is needed."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    notes = any(row.note or row.status != OK for row in rows)
    header = ["case", *names, *(["note"] if notes else [])]
    cells = []
    for row in rows:
        note = row.note if row.status == OK else f"{row.status}: {row.note}"
        cells.append([row.case, *(shown(row.figures.get(name)) for name in names), *([note] if notes else [])])
    return header, cells


def markdown(header: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A table; columns of figures to the right."""
    rule = "|".join("---" if name in ("case", "note", "goal", "verdict", "") else "--:" for name in header)
    rows = [" | ".join(cell.replace("|", "/").replace("\n", " ") for cell in row) for row in cells]
    return "\n".join([f"| {' | '.join(header)} |", f"|{rule}|", *(f"| {row} |" for row in rows)])


def draw(title: str, header: list[str], cells: list[list[str]], path: Path) -> None:
    """A table as a picture; needs matplotlib."""
    from matplotlib.figure import Figure

    short = [[cell if len(cell) <= 80 else cell[:79] + "…" for cell in row] for row in cells]
    text = table(header, short)
    width = max(len(line) for line in f"{title}\n{text}".split("\n"))
    figure = Figure(figsize=(0.085 * width + 0.6, 0.2 * (len(short) + 6) + 0.4))
    figure.text(0.3 / figure.get_figwidth(), 1 - 0.2 / figure.get_figheight(), f"{title}\n\n{text}", va="top",
                family="monospace", fontsize=10)  # fmt: skip
    figure.savefig(path, dpi=150)
