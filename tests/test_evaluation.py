"""The comparison of variants of keeping a part of the documents."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from tiny import tiny_pair
from typer.testing import CliRunner

from spec_rag.cli.app import app
from spec_rag.compression.compress import compress
from spec_rag.compression.document_draft import Draft
from spec_rag.errors import UnreadableFileError
from spec_rag.evaluation import kept as run
from spec_rag.evaluation.case import PARTS, Case
from spec_rag.evaluation.metrics import holds_answer
from spec_rag.evaluation.questions import AnsweredQuestion, read_questions
from spec_rag.evaluation.variants import EMBEDDED, VARIANTS
from spec_rag.report import Compression
from spec_rag.text.documents import Document

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
ALL = {**VARIANTS, **EMBEDDED}


def vowels(texts: list[str]) -> list[list[float]]:
    """An embedding that any machine can compute."""
    return [[float(text.count(letter)) + 0.1 for letter in "aeiou"] for text in texts]


@pytest.fixture
def draft() -> Draft:
    return Draft.of(tiny_pair())


def test_an_answer_counts_without_case_articles_and_punctuation() -> None:
    assert holds_answer("the baker is odalys-fenn? no: Odalys Fenn.", ["The Odalys Fenn"])
    assert not holds_answer("the baker is Odalys", ["Odalys Fenn"])


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


@pytest.mark.parametrize("with_titles", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_no_variant_keeps_more_than_its_share(name: str, with_titles: bool, draft: Draft) -> None:
    case = Case(draft, ASKED, vowels, with_titles=with_titles)
    assert (case.tokens > sum(case.count(text) for text in TEXTS)) == with_titles
    texts = ALL[name](case)
    assert len(texts) == len(PARTS)
    for text, part in zip(texts, PARTS, strict=True):
        own = sum(case.count(piece) for piece in text.split("\n"))
        assert 0 < own <= case.tokens // part or (not own and part > 4), (name, part)
        if name != "paper":
            assert all(word in " ".join(TEXTS).split() or word == "[...]" for word in text.split())


def within_budget(compression: Compression) -> str:
    """The kept text; empty where the best unit alone exceeds the budget, so that sizes are equal."""
    return "" if compression.over_budget else compression.text


def test_the_default_variant_is_what_compress_does(draft: Draft) -> None:
    case = Case(draft, ASKED, vowels)
    for variant, embedder in ((VARIANTS["default"], None), (EMBEDDED["+ embedder"], vowels)):
        own = [
            within_budget(compress(ASKED.documents, ASKED.question, draft=draft, ratio=1 / part, embedder=embedder))
            for part in PARTS
        ]
        assert variant(case) == own


def test_what_a_variant_changes_is_changed_in_compress_too(draft: Draft) -> None:
    case = Case(draft, ASKED)
    changed: dict[str, dict[str, object]] = {
        "- links": {"title_links": False},
        "words choose what is read": {"cascade": "always"},
        "paper by sentence": {"scoring": "joint", "title_links": False},
    }
    for name, settings in changed.items():
        own = [
            within_budget(compress(ASKED.documents, ASKED.question, draft=draft, ratio=1 / part, **settings))
            for part in PARTS
        ]
        assert ALL[name](case) == own, name


def test_variants_can_be_named_in_a_list_with_commas() -> None:
    assert not [name for name in ALL if "," in name]


def test_what_was_read_in_one_run_is_not_read_in_the_next(
    draft: Draft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = {name: ALL[name] for name in ("default", "paper", "embedding sentences")}
    first = run.kept_answers(draft, [ASKED], variants, embedder=vowels, signals=tmp_path)
    monkeypatch.setattr("spec_rag.compression.encoder.PassageEncoder._encode_batch", None)
    monkeypatch.setattr("spec_rag.evaluation.case.joint_importance", None)
    monkeypatch.setattr("spec_rag.evaluation.case.similarities", None)
    assert run.kept_answers(draft, [ASKED], variants, embedder=vowels, signals=tmp_path) == first
    other = replace(ASKED, documents=[Document("Something else. It is new."), *ASKED.documents])
    with pytest.raises(TypeError):
        run.kept_answers(draft, [other], {"default": VARIANTS["default"]}, signals=tmp_path)


def test_bm25_prefers_the_sentence_that_has_the_words(draft: Draft) -> None:
    asked = replace(ASKED, question="mill by the weir")
    assert "Its mill stands by the weir." in VARIANTS["BM25 sentences"](Case(draft, asked))[0]


def test_truncation_keeps_the_beginning_the_end_or_both(draft: Draft) -> None:
    case = Case(draft, ASKED)
    whole, room = "\n".join(TEXTS), case.tokens // PARTS[0]

    def kept(name: str) -> str:
        text = VARIANTS[f"truncation {name}"](case)[0]
        assert room - 12 < case.count(text) <= room + 1  # a word more, and a line break that is not counted
        return text

    assert whole.startswith(kept("to the head"))
    assert whole.endswith(kept("to the tail"))
    first, last = kept("of the middle").split("\n")
    assert whole.startswith(first)
    assert whole.endswith(last)
    assert abs(len(first.split()) - len(last.split())) <= 1


def test_random_sentences_stay_the_same_for_a_question_and_differ_between_questions(draft: Draft) -> None:
    def kept(question: str) -> list[str]:
        return VARIANTS["random sentences"](Case(draft, replace(ASKED, question=question)))

    assert kept("Who?") == kept("Who?")
    assert len({kept(f"Who is number {i}?")[0] for i in range(8)}) > 1


def test_the_table_shows_shares_and_their_intervals() -> None:
    kept = {"default": [[True, True, False]] * 3 + [[True, False, False]]}
    line = run.kept_table(kept).splitlines()[-1]
    assert line.startswith("| default | 1.000 [1.00, 1.00] | 0.750 [0.25, 1.00] | 0.000 [0.00, 0.00] |")


def test_the_command_reads_files_and_names_unknown_variants(
    tmp_path: Path, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_: draft))
    contexts = [{"title": d.title, "text": d.text} for d in ASKED.documents]
    path = tmp_path / "few.jsonl"
    line = json.dumps({"question": "Who bakes?", "answers": ["Fenn"], "ctxs": contexts})
    path.write_text(f"{line}\n{line}\n", encoding="utf-8")
    command = ["evaluate", "kept", str(path)]
    chosen = ["--skip", "1", "--variants", "default, - links", "--charts", str(tmp_path / "charts")]
    done = CliRunner().invoke(app, [*command, str(path), *chosen])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("| answer kept, 1 questions |") == 2
    picture = (tmp_path / "charts" / "few.svg").read_text(encoding="utf-8")
    assert "few: answer kept, 1 questions" in picture
    assert "- links" in picture
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    for wrong, says in (
        ([*command, "--variants", "best"], "'best' is not one of paper"),
        ([*command, "--skip", "2"], "--skip 2 leaves no question"),
        (["evaluate", "kept", str(tmp_path / "missing.jsonl")], "missing.jsonl"),
    ):
        refused = CliRunner().invoke(app, wrong)
        assert refused.exit_code == 2
        assert says in refused.stderr


def test_the_interval_narrows_with_questions() -> None:
    torch.manual_seed(0)
    low, high = run.interval([True] * 90 + [False] * 10)
    assert 0.8 < low < 0.9 < high < 0.97
