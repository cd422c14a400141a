"""Tables and charts of what a grid has found: means with intervals, per task, method and budget.

This module does not know how the figures came about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from benchmarks.records import Scored
from spec_rag.evaluation.chart import Point, draw_kept
from spec_rag.evaluation.kept import interval

Cells = dict[str, dict[str, dict[str, list[float]]]]
"""Scores by task, method and budget."""


def cells(rows: Sequence[Scored], figure: str = "score") -> Cells:
    """The figures of the rows, sorted into their cells."""
    found: Cells = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        if (value := getattr(row, figure)) is not None:
            found[row.cell][row.method][row.budget].append(value)
    return found


def budgets_in(methods: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """The budgets below all, the largest first."""
    names = {budget for by_budget in methods.values() for budget in by_budget}
    return sorted(names - {"1"}, key=lambda name: (Fraction(name) <= 1, -Fraction(name)))


def mean(values: Sequence[float]) -> Point:
    """The mean with its 95% interval."""
    return Point(sum(values) / len(values), *interval(values))


def grid_table(rows: Sequence[Scored], figure: str = "score") -> str:
    """Markdown: a row per task and method, a column per budget."""
    found = cells(rows, figure)
    budgets = budgets_in({f"{task} {name}": own for task, methods in found.items() for name, own in methods.items()})
    lines = [
        f"| {figure.replace('_', ' ')}, examples | method | all | " + " | ".join(budgets) + " |",
        "|---|---|---|" + "---|" * len(budgets),
    ]
    for task, methods in found.items():
        for method, by_budget in methods.items():
            count = max(map(len, by_budget.values()))
            row = " | ".join(_cell(by_budget.get(budget), count) for budget in ["1", *budgets])
            lines.append(f"| {task}, {count} | {method} | {row} |")
    return "\n".join(lines)


def _cell(values: Sequence[float] | None, expected: int) -> str:
    if not values:
        return ""
    point = mean(values)
    fewer = "" if len(values) == expected else f" (of {len(values)})"
    return f"{point.share:.3f} [{point.low:.2f}, {point.high:.2f}]{fewer}"


def draw_grid(rows: Sequence[Scored], folder: Path, what: str) -> list[Path]:
    """A PNG per task: the score against the budget; what keeps all is a dashed line.

    Args:
        rows: of the grid.
        folder: where to.
        what: is measured, for the title.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task, methods in cells(rows).items():
        budgets = budgets_in(methods)[::-1]
        count = max(len(values) for own in methods.values() for values in own.values())
        shown = {
            name: [mean(own[budget]) if budget in own else None for budget in budgets]
            for name, own in methods.items()
            if own.keys() & set(budgets)
        }
        level = {name: mean(own["1"]).share for name, own in methods.items() if "1" in own}
        path = folder / f"{task.replace(', ', '-').replace(' tokens', '').replace(',', '')}.png"
        draw_kept(f"{task}: {what}, {count} examples", budgets, shown, path, level)
        written.append(path)
    return written
