"""Tasks by methods by budgets: how much of each answer is in what is kept, a line of JSON per example and budget.

What stands in the file from an earlier run is not computed again. This module does not know how a method works, or
terminals.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from spec_rag.compression.draft import Draft
from spec_rag.errors import UnreadableFileError
from spec_rag.evaluation.chart import Point, draw_kept
from spec_rag.evaluation.methods.variants import PARTS, Case, Variant
from spec_rag.evaluation.run import interval
from spec_rag.evaluation.tasks.multidoc import AnsweredQuestion
from spec_rag.evaluation.tasks.ruler import LongCase
from spec_rag.progress import steps


@dataclass(frozen=True)
class Example:
    """Which case of which task was tried, and with what."""

    draft: str
    task: str
    tokens: int
    seed: int
    number: int
    method: str


@dataclass(frozen=True)
class Scored:
    """An example at one budget.

    Attributes:
        example: what was tried.
        part: 1/part of the documents' tokens was the budget.
        score: share of the answers that is in what was kept, 0 to 1.
        seconds: of this method for this example, all budgets together.
    """

    example: Example
    part: int
    score: float
    seconds: float

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**asdict(self.example), "part": self.part, "score": self.score, "seconds": self.seconds})

    @classmethod
    def from_json(cls, line: str) -> Scored:
        """Read `to_json` back."""
        row = json.loads(line)
        example = Example(**{name: row[name] for name in Example.__dataclass_fields__})
        return cls(example, row["part"], row["score"], row["seconds"])


def read_scored(path: Path) -> list[Scored]:
    """What an earlier run has written; a last line that was cut off is taken out of the file.

    Raises:
        UnreadableFileError: another line cannot be read; the message names it.
    """
    if not path.exists():
        return []
    found, good = [], 0
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("it has no end")
            found.append(Scored.from_json(line.decode("utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise UnreadableFileError(
                f"{path}, line {number}: {error!r}. It is no line of this command: give another file to write to."
            ) from error
        good += len(line)
    if good < len(data):
        os.truncate(path, good)
    return found


def run_grid(
    draft: Draft,
    cases: Mapping[str, Sequence[LongCase]],
    methods: Mapping[str, Variant],
    *,
    tokens: int,
    seed: int,
    out: Path | None = None,
    embedder: Any = None,
) -> list[Scored]:
    """Try every method on every case; each is written to `out` as soon as it is known.

    Args:
        draft: that reads.
        cases: by task, made for so many `tokens` by this `seed`.
        methods: by name.
        tokens, seed: of the cases.
        out: file of JSON lines, or None; what stands there already is taken over.
        embedder: for the methods that need one.
    """
    known: dict[Example, dict[int, Scored]] = defaultdict(dict)
    for line in [] if out is None else read_scored(out):
        known[line.example][line.part] = line
    found: list[Scored] = []
    with steps("Examples", sum(map(len, cases.values()))) as done:
        for task, own in cases.items():
            for number, case in enumerate(own):
                reading: Case | None = None
                for method, variant in methods.items():
                    example = Example(draft.name, task, tokens, seed, number, method)
                    if known[example].keys() < set(PARTS):
                        reading = reading or Case(draft, _asked(case), embedder)
                        rows = _tried(example, case, reading, variant)
                        _append(out, [row for row in rows if row.part not in known[example]])
                        known[example] = {row.part: row for row in rows}
                    found += [known[example][part] for part in PARTS]
                done()
    return found


def _asked(case: LongCase) -> AnsweredQuestion:
    return AnsweredQuestion(case.question, case.answers, case.documents)


def _tried(example: Example, case: LongCase, reading: Case, variant: Variant) -> list[Scored]:
    started = time.perf_counter()
    texts = variant(reading)
    taken = time.perf_counter() - started
    return [Scored(example, part, case.score(text), taken) for part, text in zip(PARTS, texts, strict=True)]


def _append(out: Path | None, rows: Iterable[Scored]) -> None:
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write("".join(f"{row.to_json()}\n" for row in rows))


def grid_points(rows: Sequence[Scored]) -> dict[str, dict[str, list[Point]]]:
    """Per task and method, the mean score at each budget with its 95% interval."""
    scores: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        scores[row.example.task, row.example.method][row.part].append(row.score)
    found: dict[str, dict[str, list[Point]]] = defaultdict(dict)
    for (task, method), by_part in scores.items():
        found[task][method] = [Point(sum(own) / len(own), *interval(own)) for own in map(by_part.get, PARTS) if own]
    return dict(found)


def grid_table(rows: Sequence[Scored]) -> str:
    """Markdown: a row per task and method, a column per budget."""
    examples = len({astuple(row.example)[:-1] for row in rows})
    lines = [
        f"| answers kept, {examples} examples | method | " + " | ".join(f"1/{part}" for part in PARTS) + " |",
        "|---|---|" + "---|" * len(PARTS),
    ]
    for task, methods in grid_points(rows).items():
        for method, points in methods.items():
            cells = " | ".join(f"{point.share:.3f} [{point.low:.2f}, {point.high:.2f}]" for point in points)
            lines.append(f"| {task} | {method} | {cells} |")
    return "\n".join(lines)


def draw_grid(rows: Sequence[Scored], folder: Path) -> None:
    """A PNG per task: the share of the answers kept against the budget."""
    folder.mkdir(parents=True, exist_ok=True)
    budgets = [f"1/{part}" for part in reversed(PARTS)]
    for task, methods in grid_points(rows).items():
        count = len({row.example.number for row in rows if row.example.task == task})
        shown = {method: points[::-1] for method, points in methods.items()}
        draw_kept(f"{task}: answers kept, {count} examples", budgets, shown, folder / f"{task}.png")
