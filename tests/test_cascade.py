"""Who is asked what, cheapest first, and what a compression says of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import tiny_pair

from spec_rag import Document, DocumentIndex, compress
from spec_rag.compression.document_draft import Draft
from spec_rag.compression.features import CompressionRequest, Features
from spec_rag.compression.passages import split_passages
from spec_rag.compression.prefilter import (
    gather_features,
    select_candidates,
    tokens_wanted,
)
from spec_rag.compression.readout import TEXT
from spec_rag.options.compression import CompressionConfig
from spec_rag.report import compression_table
from spec_rag.text.units import unit_spans

NAMES = ("Odalys", "Bram", "Cleo", "Dunya", "Emeric", "Farah", "Gwil", "Hesper", "Ivo", "Jory")
TEXTS = [
    f"{name} keeps the hut at mile {i}. The stove there burns oak. Snow lies late." for i, name in enumerate(NAMES)
]
QUESTION = "Who keeps the hut at mile 3, Dunya or Jory?"


@pytest.fixture(scope="module")
def draft() -> Draft:
    return Draft.of(tiny_pair(num_hidden_layers=8))


def scored(*scores: float) -> list[Document]:
    return [Document(text, score=score) for text, score in zip(TEXTS, scores, strict=True)]


def asked(documents: list[Document], draft: Draft, embedder: Any = None, **settings: Any) -> CompressionRequest:
    units = [unit_spans(document.text, "sentence") for document in documents]
    passages = split_passages(draft.tokenizer, documents, units)
    return CompressionRequest(
        documents, units, passages, QUESTION, CompressionConfig.from_dict(settings), embedder=embedder
    )


def read(signals: Features) -> list[int]:
    return list(range(10)) if signals.read is None else signals.read.nonzero()[:, 0].tolist()


def words_only(scores: torch.Tensor) -> torch.Tensor:
    return torch.stack([scores, *[torch.zeros(len(scores))] * (len(TEXT) - 1)], dim=1)


FALLING = [float(10 - i) for i in range(10)]


def test_what_scores_put_far_behind_is_not_read(draft: Draft) -> None:
    found = gather_features(draft, asked(scored(*FALLING), draft, ratio=0.1))
    assert len(read(found)) == 4
    assert set(read(found)) >= {0, 1, 3}  # the best three by score; the question names the fourth
    assert float(found.attention[..., : found.passage_ranges[3, 1]].max()) > 0
    unread = [i for i in range(10) if i not in read(found)]
    for i in unread:
        first, last = found.passage_ranges[i].tolist()
        assert not bool(found.attention[..., first:last].any())


@pytest.mark.parametrize(("scores", "cascade"), [(False, "auto"), (True, "never")])
def test_without_scores_or_with_never_all_is_read(draft: Draft, scores: bool, cascade: str) -> None:
    documents = scored(*FALLING) if scores else [Document(text) for text in TEXTS]
    assert read(gather_features(draft, asked(documents, draft, cascade=cascade))) == list(range(10))


def test_always_goes_by_words_where_nothing_else_is_known(draft: Draft) -> None:
    found = gather_features(draft, asked([Document(text) for text in TEXTS], draft, cascade="always", ratio=0.1))
    assert len(read(found)) == 4
    assert {3, 9} <= set(read(found))


def test_an_embedder_chooses_too(draft: Draft) -> None:
    def near_the_last(texts: list[str]) -> list[list[float]]:
        return [[1.0, 0.0], *([1.0, float(9 - i // 3)] for i in range(30))]

    found = gather_features(draft, asked([Document(text) for text in TEXTS], draft, near_the_last, ratio=0.1))
    assert {9, 8} <= set(read(found))
    assert len(read(found)) == 4


def test_a_larger_budget_reads_more(draft: Draft) -> None:
    counts = [len(read(gather_features(draft, asked(scored(*FALLING), draft, ratio=r)))) for r in (0.1, 0.4, 0.7)]
    assert counts == [4, 6, 10]
    assert len(read(gather_features(draft, asked(scored(*FALLING), draft, coverage=0.5)))) == 10


def test_a_few_passages_are_always_read(draft: Draft) -> None:
    few = scored(*FALLING)[:4]
    assert gather_features(draft, asked(few, draft, cascade="always", ratio=0.1)).read is None or read(
        gather_features(draft, asked(few, draft, cascade="always", ratio=0.1))
    ) == [0, 1, 2, 3]


def test_a_passage_is_as_promising_as_its_best_unit() -> None:
    ranges = torch.tensor([[0, 2], [2, 4], [4, 6], [6, 8], [8, 10], [10, 12], [12, 14]])
    passages = torch.tensor([0, 0, 1, 2, 3, 4, 5])
    whole = torch.tensor([[0, 4], [4, 6], [6, 8], [8, 10], [10, 12], [12, 14]])
    words = torch.tensor([0.0, 9.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    known = Features(ranges, passages, passages, whole, torch.zeros(1, 1, 14), text=words_only(words))
    assert select_candidates(known, 0) == [0, 1, 2, 3]
    assert select_candidates(known, 11) == [0, 1, 2, 3, 4]
    assert select_candidates(known, 99) == [0, 1, 2, 3, 4, 5]


def test_a_compression_says_what_was_read(draft: Draft) -> None:
    done = compress(scored(*FALLING), QUESTION, draft=draft, ratio=0.1)
    assert [look.document for look in done.passages] == list(range(10))
    assert sum(look.read for look in done.passages) == 4
    assert all(TEXTS[look.document][look.start : look.end] == TEXTS[look.document] for look in done.passages)
    assert "4 of 10 passages read" in str(compression_table(done).caption)
    alone = compress(TEXTS, QUESTION, draft=draft, ratio=0.1)
    assert "passages read" not in str(compression_table(alone).caption)
    assert compress(TEXTS, QUESTION, draft=draft, ratio=1.0).passages == ()


@pytest.mark.parametrize("settings", [{}, {"cascade": "always"}, {"cascade": "never"}])
def test_an_index_changes_nothing_at_full_precision(settings: dict[str, Any], draft: Draft) -> None:
    index = DocumentIndex(storage="float32")
    fresh = compress(TEXTS, QUESTION, draft=draft, ratio=0.2, **settings)
    filling, filled = (compress(TEXTS, QUESTION, draft=draft, ratio=0.2, index=index, **settings) for _ in range(2))
    assert fresh.text == filling.text == filled.text
    assert index.misses > 0 < index.hits


def test_units_of_unread_documents_come_behind_all_that_were_read(draft: Draft) -> None:
    done = compress(scored(*FALLING), QUESTION, draft=draft, ratio=0.1)
    read_documents = {look.document for look in done.passages if look.read}
    for inside in read_documents:
        for outside in set(range(10)) - read_documents:
            best = max(unit.importance for unit in done.documents[outside].units)
            assert best < min(unit.importance for unit in done.documents[inside].units)


@pytest.mark.parametrize(("passages", "chosen"), [(4, 4), (5, 4), (10, 4), (11, 5), (20, 8), (25, 10), (26, 11)])
def test_four_tenths_of_the_passages_are_read_and_four_at_least(passages: int, chosen: int) -> None:
    numbers = torch.arange(passages)
    ranges = torch.stack([numbers, numbers + 1], dim=1)
    known = Features(ranges, numbers, numbers, ranges, torch.zeros(1, 1, 0), text=words_only(-numbers.float()))
    assert select_candidates(known, 0) == list(range(chosen))


def test_half_as_much_again_as_may_be_kept_is_read(draft: Draft) -> None:
    inquiry = asked(scored(*FALLING), draft, ratio=0.2)
    whole = sum(len(passage.ids) for passage in inquiry.passages)
    assert tokens_wanted(inquiry) == math.ceil(1.5 * int(0.2 * whole))
    assert tokens_wanted(asked(scored(*FALLING), draft, ratio=0.9)) == whole
