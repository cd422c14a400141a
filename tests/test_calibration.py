"""The readout: its file, its training, and what it changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_pair
from typer.testing import CliRunner

from spec_rag.calibration import training
from spec_rag.calibration.generated_questions import generated_questions
from spec_rag.calibration.training import (
    TrainingExample,
    TrainingQuestion,
    calibrate,
    compared,
    cross_validated,
    fit_weights,
    read_examples,
    train,
    with_probabilities,
)
from spec_rag.cli.app import app
from spec_rag.compression.compress import compress
from spec_rag.compression.document_draft import Draft, needed_depth
from spec_rag.compression.features import Features
from spec_rag.compression.readout import PLAIN, TEXT, Readout, any_draft, find_readout, layer_range
from spec_rag.compression.scoring import probabilities, unit_scores
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.loading import DEFAULT_DRAFT

HEADS = [[1.0, 0.0, 0.25, 0.0], [0.0, 0.0, 0.0, 0.75]]
READOUT = Readout("tiny-draft", 4, 4, 1, HEADS, HEADS, {"words_unit": 0.5}, {"words_unit": 1.0}, training={"seed": 0})
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
    path.write_text(READOUT.to_json(), encoding="utf-8")
    return path


def scores(draft: Draft, **settings: object) -> list[float]:
    compression = compress(TEXTS, "Who keeps the harbour?", draft=draft, ratio=0.5, **settings)
    return [unit.importance for document in compression.documents for unit in document.units]


def test_a_readout_is_read_as_it_was_written(file: Path) -> None:
    assert find_readout(str(file), "tiny-draft") == READOUT
    assert READOUT.layer_range(4) == (1, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 1}, "format=1, and this version reads format 2"),
        ({"unit": [[1.0] * 3] * 2}, "unit: give 2 rows of 4 numbers"),
        ({"passage": [[1.0] * 4]}, "passage: give 2 rows of 4 numbers"),
        ({"unit": [[float("nan")] * 4] * 2}, "unit: give"),
        ({"unit": [[1.0] * 4] * 9, "passage": [[1.0] * 4] * 9}, "9 layers from 1 on, of 4"),
        ({"first_layer": -1}, "first_layer=-1"),
        ({"weights": {"luck": 1.0}}, r"weights\['luck'\]=1.0"),
        ({"weights": {"links": "much"}}, r"weights\['links'\]='much'"),
        ({"layers": None}, "TypeError"),
    ],
)
def test_a_damaged_file_is_refused(file: Path, change: dict[str, object], says: str) -> None:
    file.write_text(json.dumps({**json.loads(READOUT.to_json()), **change}), encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        find_readout(str(file), "tiny-draft")


def test_what_is_no_calibration_says_how_to_make_one(tmp_path: Path, draft: Draft) -> None:
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    for name in ("x.json", "missing.json"):
        with pytest.raises(ConfigError, match="spec-rag calibrate"):
            scores(draft, calibration=str(tmp_path / name))


def test_a_calibration_of_another_shape_is_refused(draft: Draft, tmp_path: Path) -> None:
    other = replace(READOUT, draft="other", layers=9)
    (tmp_path / "other.json").write_text(other.to_json(), encoding="utf-8")
    with pytest.raises(ConfigError, match="9 layers of 4 heads, but the draft 'tiny-draft' has 4 of 4"):
        scores(draft, calibration=str(tmp_path / "other.json"))


def test_a_calibration_changes_the_scores(draft: Draft, file: Path) -> None:
    assert scores(draft, calibration=str(file)) != pytest.approx(scores(draft, calibration=None), abs=1e-3)


def test_a_draft_without_a_readout_of_its_own_takes_the_one_for_any_draft(draft: Draft) -> None:
    assert find_readout("shipped", "tiny-draft") == any_draft()
    found = compress(TEXTS, "Who keeps the harbour?", draft=draft, ratio=0.5)
    assert all(0 < unit.importance < 1 for document in found.documents for unit in document.units)
    assert found.answerable is not None
    assert 0 < found.answerable < 1
    assert compress(TEXTS, "Who keeps the harbour?", draft=draft, ratio=0.5, calibration=None).answerable is None


def test_the_shipped_readout_is_of_the_default_draft() -> None:
    shipped = find_readout("shipped", DEFAULT_DRAFT)
    assert (shipped.draft, shipped.layers, shipped.heads) == (DEFAULT_DRAFT, 30, 9)
    assert shipped.training["questions"] > 100
    assert shipped.report["gain"] > 0
    assert {"bias", "slope"} <= shipped.probability.keys()


def test_another_model_of_the_default_drafts_name_takes_the_readout_for_any_draft(draft: Draft) -> None:
    namesake = replace(draft, name=DEFAULT_DRAFT)
    assert scores(namesake, calibration="shipped") == scores(draft)
    config = CompressionConfig()
    assert needed_depth(config, DEFAULT_DRAFT, 3) == layer_range(3)[1]
    assert needed_depth(config, DEFAULT_DRAFT, 30) <= 20


def examples(count: int, *, useful_head: int = 1, family: str = "a", seed: int = 0) -> list[TrainingExample]:
    """Questions with eight units, of which one is needed; one head of four sees it, and three see noise."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.arange(8)
    ranges = torch.stack([numbers, numbers + 1], dim=1)
    found = []
    for i in range(count):
        heads = torch.rand(2, 1, 4, 8, generator=generator) * 0.1
        needed = numbers == i % 8
        heads[:, 0, useful_head] += 0.5 * needed
        signals = Features(ranges, numbers, numbers, ranges, torch.zeros(1, 1, 0), text=torch.zeros(8, len(TEXT)))
        found.append(TrainingExample(signals, heads, needed, torch.ones(8, dtype=torch.long) * 4, family))
    return found


class OneLayer:
    """What training asks of a draft."""

    name, total_layers = "tiny", 1


def test_the_head_that_sees_the_needed_unit_gets_the_weight() -> None:
    weights = fit_weights(examples(24), l2=0.05)[:8].reshape(2, 4)
    assert weights.argmax(1).tolist() == [1, 1]
    assert float(weights[0, [0, 2, 3]].abs().max()) < 0.3 * float(weights[0, 1])


def test_each_family_has_the_same_weight() -> None:
    both = examples(40, useful_head=1, family="a") + examples(4, useful_head=2, family="b", seed=1)
    weights = fit_weights(both, l2=0.05)[:4]
    assert float(weights[2]) > 0.4 * float(weights[1])


def test_a_family_is_scored_by_a_readout_that_has_not_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(given: Sequence[TrainingExample], *_: Any) -> Readout:
        seen.append({e.family for e in given})
        return PLAIN

    seen: list[set[str]] = []
    monkeypatch.setattr(training, "train", noted)
    several = [e for family in "abc" for e in examples(2, family=family)]
    assert all(len(s) == 8 for s in cross_validated(several, PLAIN, OneLayer()))  # type: ignore[arg-type]
    assert seen == [{"b", "c"}, {"a", "c"}, {"a", "b"}]
    cross_validated(examples(10), PLAIN, OneLayer())  # type: ignore[arg-type]
    assert len(seen) == 3 + 5, "five folds of one family"


def test_probabilities_are_learned_with_questions_that_nothing_answers() -> None:
    answered, unanswered = examples(40), examples(40, useful_head=0, seed=3)
    for example in unanswered:
        example.heads.mul_(0.1)
        example.needed.zero_()
    both = [*answered, *unanswered]
    readout = train(answered, PLAIN, OneLayer())  # type: ignore[arg-type]
    fitted = with_probabilities(readout, both, [unit_scores(e.signals, readout, e.heads) for e in both])
    found = [probabilities(e.signals, unit_scores(e.signals, fitted, e.heads), fitted, e.heads) for e in both]
    answerable = [one[1] for one in found if one is not None]
    assert min(answerable[:40]) > 0.5 > max(answerable[40:])
    expected = torch.stack([one[0].sum() for one in found if one is not None])
    assert float(expected[:40].mean()) == pytest.approx(1.0, abs=0.3)


def test_what_two_scorings_keep_is_compared_with_an_interval() -> None:
    given = examples(20)
    right, wrong = [e.needed.float() for e in given], [-e.needed.float() for e in given]
    found = compared(given, wrong, right)
    assert (found["before"], found["after"], found["questions"]) == ([0.0, 0.0, 0.0], [1.0, 1.0, 0.0], 20)
    assert found["gain"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["interval"][0] <= found["gain"] <= found["interval"][1]


def labelled(count: int) -> list[TrainingQuestion]:
    return [
        TrainingQuestion(q.question, q.documents, q.needed, family="generated")
        for q in generated_questions(count, documents=6)
    ]


def test_training_is_deterministic_continues_and_reports(draft: Draft, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    asked = labelled(10)
    read_examples(draft, asked[:4], tmp_path / "read")
    found = calibrate(draft, asked, folder=tmp_path / "read", tell=lambda done, total: told.append((done, total)))
    assert told == [(i, 10) for i in range(11)]
    assert len(list((tmp_path / "read").iterdir())) == 10
    next((tmp_path / "read").iterdir()).write_bytes(b"cut")
    assert calibrate(draft, asked, folder=tmp_path / "read") == found
    assert (found.draft, found.layers, found.heads, found.training["questions"]) == ("tiny-draft", 4, 4, 10)
    assert found.report["interval"][0] <= found.report["gain"] <= found.report["interval"][1]
    assert Readout.from_json(found.to_json()) == found


def test_too_few_questions_and_questions_without_needed_units_are_refused(draft: Draft) -> None:
    with pytest.raises(ConfigError, match="9 questions are too few"):
        calibrate(draft, labelled(9))
    with pytest.raises(ConfigError, match="None of the questions has both"):
        fit_weights([replace(e, needed=torch.zeros(8, dtype=torch.bool)) for e in examples(3)], 0.1)


OWN = [
    {"question": "Who keeps the harbour?", "documents": TEXTS, "answers": ["Odalys Fenn"]},
    {"question": "Where is the oven?", "documents": TEXTS, "support": ["The oven stands in the yard."], "answers": []},
    {"question": "When is bread baked?", "documents": TEXTS, "support": [[1, 0, 24]], "answers": ["at night"]},
    {"question": "Who is the mayor?", "documents": TEXTS, "answers": []},
]


@pytest.mark.parametrize(("gain", "code"), [(0.1, 0), (0.0, 1), (-0.1, 1)])
def test_the_command_writes_only_what_is_better(
    draft: Draft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, code: int
) -> None:
    asked: list[TrainingQuestion] = []

    def noted(reader: Draft, questions: Sequence[TrainingQuestion], **given: Any) -> Readout:
        asked.extend(questions)
        report = {"questions": 5, "budgets": ["1/4"], "before": [0.5], "after": [0.6], "interval": [-0.1, 0.2]}
        return replace(READOUT, report={**report, "gain": gain})

    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_, **__: draft))
    monkeypatch.setattr(training, "calibrate", noted)
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, OWN)), encoding="utf-8")
    out = tmp_path / "made.json"
    run = CliRunner().invoke(app, ["calibrate", str(tmp_path / "own.jsonl"), "--generated", "2", "--out", str(out)])
    assert run.exit_code == code, run.output
    assert out.exists() is (code == 0)
    assert ("is not written" in run.output) is (code == 1)
    assert [list(one.needed) for one in asked[:4]] == [[(0, 40, 51)], [(1, 25, 53)], [(1, 0, 24)], []]
    assert [one.family for one in asked] == ["own"] * 4 + ["generated"] * 2
    if code == 0:
        assert scores(draft, calibration=str(out))


def test_the_command_without_questions_trains_on_120_generated_ones(
    draft: Draft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainingQuestion] = []

    def noted(reader: Draft, questions: Sequence[TrainingQuestion], **given: Any) -> Readout:
        asked.extend(questions)
        raise ConfigError("enough")

    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_, **__: draft))
    monkeypatch.setattr(training, "calibrate", noted)
    CliRunner().invoke(app, ["calibrate", "--out", str(tmp_path / "made.json")])
    assert [one.family for one in asked] == ["generated"] * 120


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Draft, "of", None)
    run = CliRunner().invoke(app, ["calibrate", "--out", str(tmp_path / "no" / "made.json")])
    assert run.exit_code == 2
    assert f"the folder {tmp_path / 'no'} does not exist" in run.output
