"""A picture of how often the answer survives at each budget: a line per method, with its 95% interval.

This module draws numbers; it does not know where they come from.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spec_rag.utils.atomic_files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


_MARKERS = "osD^vPX<>*"


@dataclass(frozen=True)
class Point:
    """A share with its interval, all 0 to 1."""

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
    """Write a chart; the suffix of the path says whether as SVG, PNG or PDF.

    Args:
        title: stands above.
        budgets: labels of the x axis, from the smallest to the largest.
        methods: per method one point per budget, in the same order; None where it was not tried.
        path: where to.
        levels: what does not depend on the budget, each a dashed line.
    """
    from matplotlib.figure import Figure

    lines = len(methods) + len(levels or {})
    figure = Figure(figsize=(8, max(4.4, 0.24 * lines)), layout="constrained")  # room for every name
    axes = figure.subplots()
    for name, level in (levels or {}).items():
        axes.axhline(level, label=name, color="#24292f", linestyle="--", linewidth=1.2)
    for i, (name, given) in enumerate(methods.items()):
        shift = (i - (len(methods) - 1) / 2) * 0.025  # so that intervals do not hide each other
        known = [(x + shift, point) for x, point in enumerate(given) if point is not None]
        shares = [point.share for _, point in known]
        # means that were summed in another order may lie a rounding beside an interval without width
        around = [[max(share - p.low, 0.0) for share, (_, p) in zip(shares, known, strict=True)],
                  [max(p.high - share, 0.0) for share, (_, p) in zip(shares, known, strict=True)]]  # fmt: skip
        axes.errorbar([x for x, _ in known], shares, yerr=around, label=name, color=_COLOURS[i % len(_COLOURS)],
                      marker=_MARKERS[i % len(_MARKERS)], ms=5, elinewidth=1.2, alpha=0.85)  # fmt: skip
    axes.set_xticks(range(len(budgets)), budgets)
    axes.set_xlabel("kept")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="y", color="#e3e6eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    _write(figure, path)


def draw_lengths(
    title: str, what: str, lengths: Sequence[int], methods: Mapping[str, Sequence[float | None]], path: Path
) -> None:
    """Write a chart of a cost against the length of the context, both in powers of two.

    Args:
        title: stands above.
        what: label of the y axis.
        lengths: of contexts, in tokens.
        methods: per method a figure per length; None where it was not measured.
        path: where to.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    for i, (name, given) in enumerate(methods.items()):
        known = [(length, value) for length, value in zip(lengths, given, strict=True) if value is not None]
        axes.plot([length for length, _ in known], [value for _, value in known], label=name,
                  color=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)], ms=5)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(lengths), [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.set_yticks(_round_steps([value for given in methods.values() for value in given if value is not None]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("tokens of the prompt")
    axes.set_ylabel(what)
    axes.grid(axis="y", color="#e3e6eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    picture, kind = io.BytesIO(), path.suffix.removeprefix(".")
    figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None, dpi=150)
    write_whole(path, picture.getvalue())


def _round_steps(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten, from below the smallest value to above the largest."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = [figure * 10.0**power for power in range(low, high + 1) for figure in (1, 2, 5)]
    first = max((i for i, step in enumerate(steps) if step <= min(values)), default=0)
    last = next((i for i, step in enumerate(steps) if step >= max(values)), len(steps) - 1)
    return steps[first : last + 1]
