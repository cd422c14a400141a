"""The measure of what compression keeps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from tiny import tiny_pair

from spec_rag.evaluation import multidoc

ROW = {
    "question": "Who is the baker?",
    "answers": ["The Odalys Fenn"],
    "ctxs": [{"title": "Bakery", "text": "Bread is baked daily. The baker is Odalys  Fenn, of Tarn. She sleeps late."}]
    * 3,
}


def test_an_answer_counts_without_case_articles_and_punctuation() -> None:
    assert multidoc.is_kept("the baker is odalys-fenn? no: Odalys Fenn.", ["The Odalys Fenn"])
    assert not multidoc.is_kept("the baker is Odalys", ["Odalys Fenn"])


def test_a_second_run_goes_on_where_the_first_stopped(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(multidoc, "load_model", lambda name: tiny_pair().loaded_draft())
    data, out = tmp_path / "rows.jsonl.gz", tmp_path / "out.jsonl"
    data.write_bytes(gzip.compress("\n".join([json.dumps(ROW)] * 3).encode()))
    asked: list[str] = []
    full = {"default": multidoc.compressed(ratio=None)}
    spied = {"default": lambda *args: (asked.append(args[1]), full["default"](*args))[1]}
    multidoc.evaluate(data, ["default"], spied, 2, out)
    records = multidoc.evaluate(data, ["default"], spied, 3, out)
    assert len(asked) == 3
    assert [record["question"] for record in records] == [0, 1, 2]
    assert "| default | " in multidoc.table(records, ["default"], resamples=50)


def test_the_papers_way_keeps_no_more_than_its_share(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    loaded = tiny_pair().loaded_draft()
    documents = [multidoc.Document(c["text"], title=c["title"]) for c in ROW["ctxs"]]
    monkeypatch.setattr(multidoc, "SpecPCConfig", lambda **s: multidoc_config(**s))
    texts = multidoc.paper(loaded, ROW["question"], documents)
    total = sum(len(f"Document (Title: Bakery) {c['text']}\n") for c in ROW["ctxs"])
    assert all(0 < len(text.encode()) <= total // part for text, part in zip(texts, multidoc.PARTS, strict=True))


def multidoc_config(**settings: object) -> object:
    """SpecPC's settings for a draft of few layers."""
    from spec_rag import SpecPCConfig

    return SpecPCConfig(starting_layer_index=1, **settings)
