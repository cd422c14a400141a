"""A picture of how often the answer survives at each budget: a line per method, with its 95% interval.

This module draws numbers; it does not know where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_COLOURS = (
    "#1f6feb",
    "#d1242f",
    "#8250df",
    "#bf8700",
    "#57606a",
    "#1a7f37",
    "#0a3069",
    "#953800",
    "#bf3989",
    "#0550ae",
    "#6e7781",
    "#116329",
    "#cf222e",
    "#4d2d00",
)


@dataclass(frozen=True)
class Point:
    """A share with its interval, all 0 to 1."""

    share: float
    low: float
    high: float


def draw_kept(title: str, budgets: Sequence[str], methods: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Write a chart; the suffix of the path says whether as SVG, PNG or PDF.

    Args:
        title: stands above.
        budgets: labels of the x axis, from the smallest to the largest.
        methods: per method one point per budget, in the same order.
        path: where to.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(methods.items()):
        shift = (i - (len(methods) - 1) / 2) * 0.025  # so that intervals do not hide each other
        places = [x + shift for x in range(len(points))]
        shares = [point.share for point in points]
        around = [[p.share - p.low for p in points], [p.high - p.share for p in points]]
        axes.errorbar(places, shares, yerr=around, label=name, color=_COLOURS[i % len(_COLOURS)], marker="o", ms=4,
                      elinewidth=2.5, alpha=0.85)  # fmt: skip
    axes.set_xticks(range(len(budgets)), budgets)
    axes.set_xlabel("tokens kept")
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", color="#e3e6eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=11, fontweight="semibold")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
