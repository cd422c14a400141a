"""Chart of a cost against the context length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from spec_rag.evaluation.chart import COLOURS, MARKERS, write_figure


def draw_lengths(
    title: str, what: str, lengths: Sequence[int], methods: Mapping[str, Sequence[float | None]], path: Path
) -> None:
    """Write a chart of a cost against the context length; both axes are logarithmic.

    Args:
        title: title of the chart.
        what: y axis label.
        lengths: context lengths in tokens.
        methods: one value per length and method; None if not measured.
        path: output file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    for i, (name, given) in enumerate(methods.items()):
        known = [(length, value) for length, value in zip(lengths, given, strict=True) if value is not None]
        axes.plot([length for length, _ in known], [value for _, value in known], label=name,
                  color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], ms=5)  # fmt: skip
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
    write_figure(figure, path)


def _round_steps(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten, from below the smallest value to above the largest."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = [figure * 10.0**power for power in range(low, high + 1) for figure in (1, 2, 5)]
    first = max((i for i, step in enumerate(steps) if step <= min(values)), default=0)
    last = next((i for i, step in enumerate(steps) if step >= max(values)), len(steps) - 1)
    return steps[first : last + 1]
