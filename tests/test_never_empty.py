"""A compression keeps at least one unit, unless a threshold drops all, and never one without words for its score."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from readings import reading_of, words
from tiny import saved, tiny_model, tiny_pair
from typer.testing import CliRunner

from spec_rag import Document, ModelPair, compress
from spec_rag.compression.packing import select
from spec_rag.errors import BudgetTooSmallError
from spec_rag.options.compression import CompressionConfig
from spec_rag.report import compression_table

OPENING = "We are open from nine to five."
SHORT = [OPENING, "Dogs must be kept on a lead.", "The museum shop sells postcards of the harbour."]
QUESTION = "When are you open?"


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


def count(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("texts", [SHORT[:1], SHORT, [" ".join(SHORT)]])
def test_short_documents_pass_whole_by_default(texts: list[str], pair: ModelPair) -> None:
    found = compress(texts, QUESTION, draft=pair)
    assert [document.text for document in found.documents] == texts
    assert found.draft_seconds == 0.0
    assert found.over_budget == 0


def test_the_floor_is_for_calls_without_a_size(pair: ModelPair) -> None:
    texts = [f"Hut {i} stands at mile {i} of the long road." for i in range(30)]  # 300 words
    default = compress(texts, QUESTION, draft=pair, count_with=count)
    assert default.budget_tokens == 160
    assert 140 < default.tokens_after <= 160
    assert compress(texts, QUESTION, draft=pair, count_with=count, ratio=0.25).budget_tokens == 75
    assert compress(texts, QUESTION, draft=pair, count_with=count, min_tokens=0).budget_tokens == 75
    assert compress(texts, QUESTION, draft=pair, count_with=count, min_tokens=200).budget_tokens == 200


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 1},
        {"max_tokens": 3},
        {"ratio": 0.01},
        {"ratio": 0.01, "unit": "document"},
        {"ratio": 0.01, "unit": "token"},
        {"document_max_tokens": 1},
        {"max_tokens": 3, "coverage": 0.5},
        {"max_tokens": 3, "order": "relevance"},
        {"max_tokens": 3, "scoring": "joint"},
        {"max_tokens": 3, "context_before": 2, "context_after": 2},
    ],
    ids=str,
)
def test_the_best_unit_is_kept_beyond_a_budget_that_is_too_small(
    settings: dict[str, Any], pair: ModelPair, caplog: pytest.LogCaptureFixture
) -> None:
    found = compress(SHORT, QUESTION, draft=pair, count_with=count, **settings)
    units = [unit for document in found.documents for unit in document.units]
    (kept,) = (unit for unit in units if unit.kept)
    assert kept.importance == max(unit.importance for unit in units)
    limit = settings.get("document_max_tokens", found.budget_tokens)
    assert found.over_budget == max(found.tokens_after - limit, 0)
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == (1 if found.over_budget else 0)
    if found.over_budget:
        assert str(limit) in messages[0]
        assert f"exceeded by {found.over_budget}" in found.to_html()
        assert f"exceeded by {found.over_budget}" in str(compression_table(found).columns[3].footer)


def test_where_units_may_be_cut_the_best_one_is_cut_to_fit(pair: ModelPair) -> None:
    found = compress(SHORT, QUESTION, draft=pair, count_with=count, max_tokens=5, cut_units=True)
    assert 0 < found.tokens_after <= 5
    assert found.over_budget == 0
    assert "…" in found.text
    whole = compress(SHORT, QUESTION, draft=pair, count_with=count, max_tokens=1, cut_units=True)
    assert whole.text in SHORT, "not even one word and its mark fit"


def test_a_threshold_may_drop_everything(pair: ModelPair) -> None:
    found = compress(SHORT, QUESTION, draft=pair, threshold=100.0)
    assert found.text == ""
    assert found.over_budget == 0
    assert compress(SHORT, QUESTION, draft=pair, threshold=100.0, min_tokens=5, count_with=count).text


def test_what_is_held_still_has_to_fit(pair: ModelPair) -> None:
    with pytest.raises(BudgetTooSmallError):
        compress(SHORT, QUESTION, draft=pair, max_tokens=3, keep_first=1)
    held = compress([*SHORT, "On 3 May we close."], QUESTION, draft=pair, count_with=count, max_tokens=5, keep="dates")
    assert held.text == "On 3 May we close."


@pytest.mark.parametrize("blank", ["---", "🙂 🙂", "|---|:--|", "***", "…", ");", "— — —", "===="])
def test_a_unit_without_words_is_never_kept_for_its_score(blank: str) -> None:
    text = f"Huts are red.\n\n{blank}\n\nBoats are blue."
    reading = reading_of([text], [1.0, 9.0, 2.0])

    def kept(budget: int, **settings: Any) -> list[Any]:
        return select(reading, CompressionConfig(**settings), words, budget)[0].reasons

    assert kept(3) == [None, None, "score"]
    assert kept(100) == ["score", None, "score"]
    assert kept(100, context_before=1) == ["score", "context", "score"]
    assert kept(1) == [None, None, "score"]
    assert kept(100, coverage=0.5) == [None, None, "score"]
    assert kept(100, document_min_tokens=3) == [None, None, "floor"] or kept(100, document_min_tokens=3)[1] is None
    assert kept(100, keep_first=2) == ["first", "first", "score"]


@pytest.mark.parametrize("text", ["42", "Nr. 7", "день", "江湖", "สวัสดี", "a", "| 4 | 5 |"])
def test_letters_and_digits_of_any_script_are_words(text: str) -> None:
    reading = reading_of([text], [1.0])
    assert select(reading, CompressionConfig(), words, 1)[0].text == text


def test_documents_without_words_stay_empty(pair: ModelPair) -> None:
    assert compress(["---\n\n***\n\n🙂"], QUESTION, draft=pair, max_tokens=1).text == ""
    assert compress(["", "  "], QUESTION, draft=pair, max_tokens=1).text == ""


def test_both_adapters_keep_short_documents_and_the_best_unit(pair: ModelPair) -> None:
    langchain = pytest.importorskip("langchain_spec_rag")
    documents = pytest.importorskip("langchain_core.documents")
    given = [documents.Document(text) for text in SHORT]
    kept = langchain.SpecPCCompressor(draft=pair).compress_documents(given, QUESTION)
    assert [one.page_content for one in kept] == SHORT
    kept = langchain.SpecPCCompressor(draft=pair, max_tokens=1).compress_documents(given, QUESTION)
    assert len(kept) == 1
    assert kept[0].page_content in SHORT

    llama_index = pytest.importorskip("llama_index.postprocessor.spec_rag")
    schema = pytest.importorskip("llama_index.core.schema")
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text)) for text in SHORT]
    found = llama_index.SpecPCCompressor(draft=pair).postprocess_nodes(nodes, query_str=QUESTION)
    assert [one.get_content() for one in found] == SHORT
    found = llama_index.SpecPCCompressor(draft=pair, max_tokens=1).postprocess_nodes(nodes, query_str=QUESTION)
    assert len(found) == 1
    assert found[0].get_content() in SHORT


def test_the_least_of_llama_index_counts_the_metadata(pair: ModelPair) -> None:
    llama_index = pytest.importorskip("llama_index.postprocessor.spec_rag")
    schema = pytest.importorskip("llama_index.core.schema")
    text = " ".join(f"Hut {i} is red." for i in range(80))
    node = schema.NodeWithScore(node=schema.TextNode(text=text, metadata={"place": "the long road"}))
    compressor = llama_index.SpecPCCompressor(draft=pair, min_tokens=500, metadata_mode="llm")
    (kept,) = compressor.postprocess_nodes([node], query_str=QUESTION)
    assert 400 < len(kept.get_content(metadata_mode="llm")) <= 500


def test_the_command_line_keeps_short_files(tmp_path: Path) -> None:
    from spec_rag.cli.app import app

    draft = saved(tiny_model(), tmp_path / "draft")
    (tmp_path / "hours.txt").write_text(OPENING)
    arguments = ["compress", str(tmp_path / "hours.txt"), "-q", QUESTION, "--draft", str(draft), "--json"]
    for more, over in (([], 0), (["--max-tokens", "10"], len(OPENING) - 10)):
        done = CliRunner().invoke(app, [*arguments, *more])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["text"] == OPENING
        assert found["over_budget"] == over


def test_titles_do_not_count_as_words_of_a_unit(pair: ModelPair) -> None:
    assert compress([Document("---", title="Opening hours")], QUESTION, draft=pair, ratio=0.1).text == ""
