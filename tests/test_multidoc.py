"""The comparison of ways to keep a part of the documents."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from tiny import tiny_pair

from spec_rag.compression.calibration import Calibration
from spec_rag.compression.pipeline import compress
from spec_rag.text.documents import Document
from spec_rag.errors import UnreadableFileError
from spec_rag.evaluation import multidoc
from spec_rag.evaluation.tasks.multidoc import AnsweredQuestion, is_kept, read_questions
from spec_rag.evaluation.methods.variants import CALIBRATED_WAYS, EMBEDDED_WAYS, PARTS, WAYS, Case
from spec_rag.models.loading import LoadedModel

TEXTS = (
    "Bread is baked daily. The baker is Odalys  Fenn, of Tarn. She sleeps late.",
    "Tarn is a town of stone. Its mill stands by the weir. Nobody grinds there now.",
    "Ferries leave at noon. The pier is old. Gulls wait for bread.",
)
TITLES = ("Bakery", "Tarn", "Harbour")
ASKED = AnsweredQuestion(
    "Who is the baker?",
    ["The Odalys Fenn"],
    [Document(text, title=title) for title, text in zip(TITLES, TEXTS, strict=True)],
)
ALL_WAYS = {**WAYS, **CALIBRATED_WAYS, **EMBEDDED_WAYS}


def vowels(texts: list[str]) -> list[list[float]]:
    """An embedding that any machine can compute."""
    return [[float(text.count(letter)) + 0.1 for letter in "aeiou"] for text in texts]


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny_pair().loaded_draft()


def test_an_answer_counts_without_case_articles_and_punctuation() -> None:
    assert is_kept("the baker is odalys-fenn? no: Odalys Fenn.", ["The Odalys Fenn"])
    assert not is_kept("the baker is Odalys", ["Odalys Fenn"])


def test_files_of_both_forms_are_read(tmp_path: Path) -> None:
    passages = {"question": "Who?", "answers": ["Fenn"], "ctxs": [{"title": "Bakery", "text": "Fenn bakes."}]}
    pairs = {"ordered_kv_records": [["k1", "v1"], ["k2", "v2"]], "key": "k2", "value": "v2"}
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(f"{json.dumps(passages)}\n{json.dumps(pairs)}\n".encode()))
    first, second = read_questions(path)
    assert (first.documents[0].title, first.documents[0].text) == ("Bakery", "Fenn bakes.")
    assert second.answers == ["v2"]
    assert second.documents[0].text == '"k1": "v1",\n"k2": "v2"'
    assert len(read_questions(path, limit=1)) == 1


def test_a_line_of_another_form_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Who?"}\n', encoding="utf-8")
    with pytest.raises(UnreadableFileError, match=r"rows.jsonl, line 1: KeyError"):
        read_questions(path)


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> Calibration:
    """A calibration for the tiny draft, as if it came with the package."""
    made = Calibration("tiny-draft", 4, 4, {"1.0": 1.0}, {"1.2": 0.25, "2.3": 0.75}, questions=1, seed=0)
    for module in ("spec_rag.evaluation.methods.variants", "spec_rag.evaluation.run", "spec_rag.compression.signals"):
        monkeypatch.setattr(f"{module}.find_calibration", lambda wanted, _: made if wanted else None)
    return made


@pytest.mark.parametrize("with_titles", [False, True])
@pytest.mark.parametrize("name", ALL_WAYS)
def test_no_way_keeps_more_than_its_share(
    name: str, with_titles: bool, loaded: LoadedModel, shipped: Calibration
) -> None:
    case = Case(loaded, ASKED, vowels, with_titles=with_titles)
    assert (case.tokens > sum(case.count(text) for text in TEXTS)) == with_titles
    texts = ALL_WAYS[name](case)
    assert len(texts) == len(PARTS)
    for text, part in zip(texts, PARTS, strict=True):
        own = sum(case.count(piece) for piece in text.split("\n"))
        assert 0 < own <= case.tokens // part or (not own and part > 4), (name, part)
        if name != "paper":
            assert all(word in " ".join(TEXTS).split() for word in text.split())


def test_the_default_way_is_what_compress_does(loaded: LoadedModel) -> None:
    case = Case(loaded, ASKED, vowels)
    for way, embedder in ((WAYS["default"], None), (EMBEDDED_WAYS["fused"], vowels)):
        own = [
            compress(ASKED.documents, ASKED.question, draft=loaded, ratio=1 / part, embedder=embedder).text
            for part in PARTS
        ]
        assert way(case) == own


def test_a_part_that_is_switched_is_switched_in_compress_too(loaded: LoadedModel, shipped: Calibration) -> None:
    case = Case(loaded, ASKED)
    switched: dict[str, dict[str, object]] = {
        "- likelihood": {"likelihood": False},
        "- contrast": {"contrast": False},
        "- links": {"links": False},
        "+ calibrated heads": {"calibration": "shipped"},
        "- likelihood + calibrated heads": {"calibration": "shipped", "likelihood": False},
    }
    for way, settings in switched.items():
        own = [
            compress(ASKED.documents, ASKED.question, draft=loaded, ratio=1 / part, **settings).text for part in PARTS
        ]
        assert ALL_WAYS[way](case) == own


def test_ways_can_be_named_in_a_list_with_commas() -> None:
    assert not [name for name in ALL_WAYS if "," in name]


def test_kept_evidence_spares_the_draft(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {**WAYS, **EMBEDDED_WAYS}
    first = multidoc.evaluate(loaded, [ASKED], ways, embedder=vowels, evidence=tmp_path)
    monkeypatch.setattr("spec_rag.evaluation.methods.variants.gather_evidence", None)
    monkeypatch.setattr("spec_rag.evaluation.methods.variants.joint_importance", None)
    monkeypatch.setattr("spec_rag.evaluation.methods.variants.similarities", None)
    assert multidoc.evaluate(loaded, [ASKED], ways, embedder=vowels, evidence=tmp_path) == first
    other = replace(ASKED, question="What is old?")
    with pytest.raises(TypeError):
        multidoc.evaluate(loaded, [other], {"default": WAYS["default"]}, evidence=tmp_path)


def test_bm25_prefers_the_sentence_that_has_the_words(loaded: LoadedModel) -> None:
    asked = replace(ASKED, question="mill by the weir")
    assert "Its mill stands by the weir." in WAYS["BM25 sentences"](Case(loaded, asked))[0]


def test_the_table_shows_shares_and_their_intervals() -> None:
    kept = {"default": [[True, True, False]] * 3 + [[True, False, False]]}
    line = multidoc.table(kept).splitlines()[-1]
    assert line.startswith("| default | 1.000 [1.00, 1.00] | 0.750 [0.25, 1.00] | 0.000 [0.00, 0.00] |")


def test_the_command_reads_files_and_names_unknown_ways(
    tmp_path: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(multidoc, "load_model", lambda name: loaded)
    contexts = [{"title": d.title, "text": d.text} for d in ASKED.documents]
    path = tmp_path / "few.jsonl"
    line = json.dumps({"question": "Who bakes?", "answers": ["Fenn"], "ctxs": contexts})
    path.write_text(f"{line}\n{line}\n", encoding="utf-8")
    multidoc.main(
        [str(path), str(path), "--skip", "1", "--ways", "default, paper", "--charts", str(tmp_path / "charts")]
    )
    chart = ElementTree.parse(tmp_path / "charts" / "few.svg").getroot()
    assert len(chart.findall("{*}polyline")) == 2
    assert {"default", "paper"} <= {(text.text or "").split(" ")[0] for text in chart.findall("{*}text")}
    assert capsys.readouterr().out.count("| answer kept, 1 questions |") == 2
    for wrong in ([str(path), "--ways", "best"], [str(path), "--skip", "2"], [str(tmp_path / "missing.jsonl")]):
        with pytest.raises(SystemExit):
            multidoc.main(wrong)
    assert "'best' is not one of paper" in capsys.readouterr().err


def test_the_interval_narrows_with_questions() -> None:
    torch.manual_seed(0)
    low, high = multidoc.interval([True] * 90 + [False] * 10)
    assert 0.8 < low < 0.9 < high < 0.97
