"""Line chart of the share of kept answers per budget and method, with 95% intervals."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spec_rag.utils.atomic_files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (
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
MARKERS = "osD^vPX<>*"


@dataclass(frozen=True)
class Point:
    """A share with its confidence interval, all in [0, 1]."""

    share: float
    low: float
    high: float


def draw_kept(
    title: str,
    budgets: Sequence[str],
    methods: Mapping[str, Sequence[Point | None]],
    path: Path,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Write a chart as SVG, PNG or PDF, by the suffix of the path.

    Args:
        title: title of the chart.
        budgets: x axis labels, in ascending order.
        methods: one point per budget and method; None if not measured.
        path: output file.
        levels: shares that do not depend on the budget, drawn as dashed lines.
    """
    from matplotlib.figure import Figure

    lines = len(methods) + len(levels or {})
    figure = Figure(figsize=(8, max(4.4, 0.24 * lines)), layout="constrained")  # one legend line per name
    axes = figure.subplots()
    for name, level in (levels or {}).items():
        axes.axhline(level, label=name, color="#24292f", linestyle="--", linewidth=1.2)
    for i, (name, row) in enumerate(methods.items()):
        shift = (i - (len(methods) - 1) / 2) * 0.025  # keeps intervals apart
        measured = [(x + shift, point) for x, point in enumerate(row) if point is not None]
        shares = [point.share for _, point in measured]
        # rounding may put a mean slightly outside a zero-width interval
        around = [[max(share - p.low, 0.0) for share, (_, p) in zip(shares, measured, strict=True)],
                  [max(p.high - share, 0.0) for share, (_, p) in zip(shares, measured, strict=True)]]  # fmt: skip
        axes.errorbar([x for x, _ in measured], shares, yerr=around, label=name, color=COLOURS[i % len(COLOURS)],
                      marker=MARKERS[i % len(MARKERS)], ms=5, elinewidth=1.2, alpha=0.85)  # fmt: skip
    axes.set_xticks(range(len(budgets)), budgets)
    axes.set_xlabel("kept")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="y", color="#e3e6eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    write_figure(figure, path)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format of the path's suffix."""
    picture, kind = io.BytesIO(), path.suffix.removeprefix(".")
    figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None, dpi=150)
    write_whole(path, picture.getvalue())
