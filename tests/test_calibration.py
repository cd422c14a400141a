"""Which heads of a draft to trust: the file, the learning, and what it changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_pair
from typer.testing import CliRunner

from spec_rag.calibration.training import calibrate, head_gains
from spec_rag.cli.app import app
from spec_rag.compression.compress import compress
from spec_rag.compression.document_draft import Draft, needed_depth
from spec_rag.compression.features import Features
from spec_rag.compression.head_weights import Calibration, find_calibration, layer_range
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.loading import DEFAULT_DRAFT

CALIBRATION = Calibration("tiny-draft", 4, 4, {"1.0": 1.0}, {"1.2": 0.25, "2.3": 0.75}, questions=3, seed=0)
TEXTS = [
    "The harbour opens at six. Its keeper is Odalys Fenn. Gulls sleep on the wall.",
    "Bread is baked at night. The oven stands in the yard. Nobody knows its age.",
]


@pytest.fixture
def draft() -> Draft:
    return Draft.of(tiny_pair())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    path.write_text(CALIBRATION.to_json(), encoding="utf-8")
    return path


def scores(draft: Draft, **settings: object) -> list[float]:
    compression = compress(TEXTS, "Who keeps the harbour?", draft=draft, ratio=0.5, **settings)
    return [unit.importance for document in compression.documents for unit in document.units]


def test_a_calibration_is_read_as_it_was_written(file: Path) -> None:
    assert find_calibration(str(file), "tiny-draft") == CALIBRATION
    assert CALIBRATION.layer_range == (1, 3)
    assert CALIBRATION.weights("passage", 1, 3).tolist() == [[0, 0, 0.25, 0], [0, 0, 0, 0.75]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 9}, "format=9"),
        ({"unit": {"4.0": 1.0}}, r"unit\['4.0'\]=1.0"),
        ({"unit": {"1.0": -1.0}}, r"unit\['1.0'\]=-1.0"),
        ({"passage": {}}, r"passage=\{\}"),
        ({"layers": None}, "TypeError"),
    ],
)
def test_a_damaged_file_is_refused(file: Path, change: dict[str, object], says: str) -> None:
    file.write_text(json.dumps({**json.loads(CALIBRATION.to_json()), **change}), encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        find_calibration(str(file), "tiny-draft")


def test_what_is_no_calibration_says_how_to_make_one(tmp_path: Path, draft: Draft) -> None:
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    for name in ("x.json", "missing.json"):
        with pytest.raises(ConfigError, match="spec-rag calibrate"):
            scores(draft, calibration=str(tmp_path / name))


def test_a_calibration_of_another_shape_is_refused(draft: Draft, tmp_path: Path) -> None:
    other = replace(CALIBRATION, draft="other", layers=9)
    (tmp_path / "other.json").write_text(other.to_json(), encoding="utf-8")
    with pytest.raises(ConfigError, match="9 layers of 4 heads, but the draft 'tiny-draft' has 4 of 4"):
        scores(draft, calibration=str(tmp_path / "other.json"))


def test_a_calibration_changes_the_scores(draft: Draft, file: Path) -> None:
    for likelihood in (True, False):
        plain = scores(draft, likelihood=likelihood)
        assert scores(draft, likelihood=likelihood, calibration=str(file)) != pytest.approx(plain, abs=1e-3)


def test_a_draft_without_a_shipped_calibration_works_without(draft: Draft) -> None:
    assert scores(draft, calibration="shipped") == scores(draft)


def test_the_shipped_calibration_listens_no_deeper_than_the_plain_score() -> None:
    shipped = find_calibration("shipped", DEFAULT_DRAFT)
    assert shipped is not None
    assert (shipped.draft, shipped.layers, shipped.heads) == (DEFAULT_DRAFT, 30, 9)
    first, last = layer_range(30)
    assert first <= shipped.layer_range[0] < shipped.layer_range[1] <= last


def test_a_head_is_worth_what_it_gains_over_guessing() -> None:
    attention = torch.zeros(1, 3, 12)
    attention[0, 0, 4:8] = 0.5  # the head that looks at the needed unit
    attention[0, 1, :4] = 0.5  # one that looks at another
    attention[0, 2, :] = 0.5  # one that looks everywhere
    ranges = torch.tensor([[0, 4], [4, 8], [8, 12]])
    each = torch.arange(3)
    signals = Features(ranges, each, each, ranges, attention)
    unit, passage = head_gains(signals, torch.tensor([False, True, False]))
    assert unit[0, 0] > 0.5
    assert unit[0, 1] < 0
    assert unit[0, 2] == pytest.approx(0, abs=1e-5)
    assert torch.equal(unit, passage)


def test_learning_is_deterministic_and_tells_how_far_it_is(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    # a random model has no head to trust, so what it sees counts as gained whatever it is worth
    monkeypatch.setattr("spec_rag.calibration.training.head_gains", lambda *given: head_gains(*given).abs())
    told: list[tuple[int, int]] = []
    found = calibrate(draft, questions=2, seed=5, tell=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert found == calibrate(draft, questions=2, seed=5)
    assert (found.draft, found.layers, found.heads, found.seed) == ("tiny-draft", 4, 4, 5)
    assert found.layer_range == layer_range(4)
    assert sum(found.unit.values()) == pytest.approx(1, abs=0.02)
    assert found != replace(calibrate(draft, questions=2, seed=6), seed=5)


def test_a_draft_without_a_useful_head_is_refused(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spec_rag.calibration.training.head_gains", lambda *given: -head_gains(*given).abs())
    with pytest.raises(ConfigError, match="none of its heads finds the needed sentences"):
        calibrate(draft, questions=1)


def test_the_command_writes_a_file_that_compress_takes(
    draft: Draft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_, **__: draft))
    monkeypatch.setattr("spec_rag.calibration.training.head_gains", lambda *given: head_gains(*given).abs())
    out = tmp_path / "made.json"
    run = CliRunner().invoke(app, ["calibrate", "--out", str(out), "--questions", "1"])
    assert run.exit_code == 0, run.output
    assert "heads for units" in run.output
    assert scores(draft, calibration=str(out))


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Draft, "of", None)
    run = CliRunner().invoke(app, ["calibrate", "--out", str(tmp_path / "no" / "made.json")])
    assert run.exit_code == 2
    assert f"the folder {tmp_path / 'no'} does not exist" in run.output


def test_the_shipped_calibration_is_left_out_where_another_model_goes_by_its_draft_s_name(draft: Draft) -> None:
    namesake = replace(draft, name=DEFAULT_DRAFT)
    assert scores(namesake, calibration="shipped") == scores(draft, calibration=None)
    config = CompressionConfig(likelihood=False)
    assert needed_depth(config, DEFAULT_DRAFT, 3) == layer_range(3)[1]
    assert needed_depth(config, DEFAULT_DRAFT, 30) <= 20
