"""Charts: every method is drawn, and axes have round numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.length_chart import _round_steps, draw_lengths
from spec_rag.evaluation.chart import Point, draw_kept
from spec_rag.evaluation.kept import interval


def test_axes_have_round_numbers_around_the_values() -> None:
    assert _round_steps([1.6, 70.0]) == [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
    assert _round_steps([0.02]) == [0.02]
    assert _round_steps([3.0]) == [2.0, 5.0]


def test_a_chart_names_each_method_and_leaves_out_what_was_not_tried(tmp_path: Path) -> None:
    point = Point(0.5, 0.4, 0.6)
    methods = {f"method {i}": [point, None if i else point] for i in range(30)}
    draw_kept("Kept", ["1/8", "1/4"], methods, tmp_path / "kept.svg", {"dense": 0.7})
    picture = (tmp_path / "kept.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in picture for name in [*methods, "dense", "Kept", "1/8"])
    assert float(picture.split('height="')[1].split("pt")[0]) > 500  # room for all names
    draw_lengths("Seconds", "seconds", [512, 1024], {"dense": [1.0, 2.0], "SpecKV": [None, 3.0]}, tmp_path / "s.svg")
    picture = (tmp_path / "s.svg").read_text(encoding="utf-8")
    assert "<!-- SpecKV -->" in picture
    assert "<!-- 1,024 -->" in picture


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_suffix_says_which_kind_of_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"chart{suffix}"
    draw_kept("Kept", ["1/8"], {"one": [Point(1, 1, 1)]}, path)
    assert path.stat().st_size > 1000


def test_equal_scores_whose_mean_is_rounded_are_drawn(tmp_path: Path) -> None:
    scores = [0.2] * 40
    share = sum(scores) / 40
    assert share > 0.2
    draw_kept("Kept", ["1/8"], {"one": [Point(share, *interval(scores))]}, tmp_path / "chart.svg")
    assert "<!-- one -->" in (tmp_path / "chart.svg").read_text(encoding="utf-8")
