"""A picture of how often the answer survives at each budget: a line per way, with its 95% interval.

This module draws numbers; it does not know where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 170, 44, 48
_COLOURS = ("#1f6feb", "#d1242f", "#8250df", "#bf8700", "#57606a", "#1a7f37", "#0a3069", "#953800")
_LABEL_GAP = 17.0


@dataclass(frozen=True)
class Point:
    """A share with its interval, all 0 to 1."""

    share: float
    low: float
    high: float


def kept_chart(title: str, budgets: Sequence[str], ways: Mapping[str, Sequence[Point]]) -> str:
    """An <svg> document.

    Args:
        title: stands above.
        budgets: labels of the x axis, from the smallest to the largest.
        ways: per way one point per budget, in the same order.
    """
    columns = [_LEFT + (i + 0.5) * (_WIDTH - _LEFT - _RIGHT) / len(budgets) for i in range(len(budgets))]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15" font-weight="600" fill="#16181d">{escape(title)}</text>',
    ]
    for step in range(6):
        share = step / 5
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_y(share):.1f}" y2="{_y(share):.1f}" stroke="#e3e6eb"/>'
            f'<text x="{_LEFT - 8}" y="{_y(share) + 4:.1f}" text-anchor="end" fill="#5b6270">{share:.1f}</text>'
        )
    for x, label in zip(columns, budgets, strict=True):
        parts.append(
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 22}" text-anchor="middle" fill="#16181d">{escape(label)}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle" fill="#5b6270">tokens kept</text>')
    labels = _apart({name: _y(points[-1].share) for name, points in ways.items()})
    for i, (name, points) in enumerate(ways.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        shift = (i - (len(ways) - 1) / 2) * 5  # so that intervals do not hide each other
        places = [(x + shift, point) for x, point in zip(columns, points, strict=True)]
        path = " ".join(f"{x:.1f},{_y(point.share):.1f}" for x, point in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, point in places:
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(point.low):.1f}" y2="{_y(point.high):.1f}" stroke="{colour}" '
                f'stroke-opacity="0.45" stroke-width="3"/><circle cx="{x:.1f}" cy="{_y(point.share):.1f}" r="3.5" '
                f'fill="{colour}"/>'
            )
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 10}" y="{labels[name] + 4:.1f}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _y(share: float) -> float:
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def _apart(heights: Mapping[str, float]) -> dict[str, float]:
    """The same heights, moved down where labels would touch, and up again where they would leave the picture."""
    placed: dict[str, float] = {}
    last = -_LABEL_GAP
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        last = placed[name] = max(height, last + _LABEL_GAP)
    excess = max(0.0, last - (_HEIGHT - _BOTTOM))
    return {name: height - excess for name, height in placed.items()}
