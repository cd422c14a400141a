"""One score that is no finite number, at every entrance: the others keep theirs, and one warning names it."""

from __future__ import annotations

import logging
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_pair

from spec_rag import Compression, Document, ModelPair, compress
from spec_rag.compression.finite_scores import finite_scores, scaled
from spec_rag.text.documents import as_documents

TEXTS = [f"Bay {i} is painted grey. Cranes rest there at night." for i in range(6)]
QUESTION = "Who is the harbour master?"
BAD = [math.nan, math.inf, -math.inf, "high", "nan", True, np.float32("nan"), torch.tensor(torch.inf), 10**400]
SCORES = [0.5, None, 0.4, 0.3, 0.9, 0.2]  # None: the place of the bad one


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


def with_bad(value: Any) -> list[Any]:
    return [value if score is None else score for score in SCORES]


def plain(value: Any) -> list[Any]:
    return [Document(text, score=score) for text, score in zip(TEXTS, with_bad(value), strict=True)]


def of_langchain(value: Any) -> list[Any]:
    documents = pytest.importorskip("langchain_core.documents")
    return [
        documents.Document(text, metadata={"relevance_score": score})
        for text, score in zip(TEXTS, with_bad(value), strict=True)
    ]


def of_llama_index(value: Any) -> list[Any]:
    schema = pytest.importorskip("llama_index.core.schema")
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text)) for text in TEXTS]
    for node, score in zip(nodes, with_bad(value), strict=True):
        node.score = score
    return nodes


def importances(found: Compression) -> list[float]:
    return [unit.importance for document in found.documents for unit in document.units]


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("given", [plain, of_langchain, of_llama_index])
@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_a_bad_retrieval_score_leaves_the_others_their_say(
    given: Any, bad: Any, pair: ModelPair, caplog: pytest.LogCaptureFixture
) -> None:
    found = compress(given(bad), QUESTION, draft=pair, ratio=0.5)
    assert all(map(math.isfinite, importances(found)))
    (message,) = warned(caplog)
    assert "documents[1]" in message
    assert repr(bad)[:20] in message
    without = compress(TEXTS, QUESTION, draft=pair, ratio=0.5)
    gained = [a - b for a, b in zip(importances(found), importances(without), strict=True)]
    assert max(gained) > 0, "the scores of the other documents no longer count"


def test_numbers_of_any_type_are_scores() -> None:
    numbers = [1, 0.5, np.float32(0.25), torch.tensor(0.125), "0.5", Decimal("0.5"), np.int64(3), None]
    found = [document.score for document in as_documents([Document("x", score=one) for one in numbers])]
    assert found == [1.0, 0.5, 0.25, 0.125, 0.5, 0.5, 3.0, None]
    assert all(one is None or type(one) is float for one in found)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 10**400, None], ids=repr)
def test_a_scorers_bad_score_leaves_the_others_their_say(
    bad: Any, pair: ModelPair, caplog: pytest.LogCaptureFixture
) -> None:
    def scorer(question: str, texts: list[str]) -> list[Any]:
        return [bad if "Bay 1" in text else float("Bay 4" in text) for text in texts]

    found = compress(TEXTS, QUESTION, draft=pair, ratio=0.5, scorer=scorer)
    assert all(map(math.isfinite, importances(found)))
    (message,) = warned(caplog)
    assert "scorer=scorer" in message
    assert "documents[1]" in message


def test_a_reranker_that_scores_one_document_with_nan_still_orders_the_others(
    pair: ModelPair, caplog: pytest.LogCaptureFixture
) -> None:
    class Reranker:
        def compress_documents(self, documents: Any, query: str) -> Any:
            scores = (math.nan, 0.1, 0.9)
            for document, score in zip(documents, scores, strict=False):
                document.metadata["relevance_score"] = score
            return documents[:3]

    pytest.importorskip("langchain_core.documents")
    found = compress(TEXTS, QUESTION, draft=pair, ratio=0.5, scorer=Reranker())
    assert all(map(math.isfinite, importances(found)))
    assert "documents[0]" in warned(caplog)[0]


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, 1.0]])
def test_an_embedders_bad_vector_leaves_the_others_their_say(
    bad: list[float], pair: ModelPair, caplog: pytest.LogCaptureFixture
) -> None:
    def embedder(texts: list[str]) -> list[list[float]]:
        return [bad if "Bay 1" in text else [1.0, float("Bay 4" in text)] for text in texts]

    found = compress(TEXTS, QUESTION, draft=pair, ratio=0.5, embedder=embedder)
    assert all(map(math.isfinite, importances(found)))
    (message,) = warned(caplog)
    assert "documents[1]" in message


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [0.0, 0.0]])
def test_a_question_without_a_direction_is_similar_to_nothing(bad: list[float], pair: ModelPair) -> None:
    def embedder(texts: list[str]) -> list[list[float]]:
        return [bad if text == QUESTION else [1.0, float("Bay 4" in text)] for text in texts]

    found = compress(TEXTS, QUESTION, draft=pair, ratio=0.5, embedder=embedder)
    assert all(map(math.isfinite, importances(found)))


def test_good_scores_are_not_warned_about(pair: ModelPair, caplog: pytest.LogCaptureFixture) -> None:
    compress(plain(0.1), QUESTION, draft=pair, ratio=0.5)
    assert warned(caplog) == []


def test_what_is_not_finite_takes_the_middle_and_minus_infinity_the_end() -> None:
    scores = torch.tensor([1.0, math.nan, 3.0, math.inf, -math.inf, 2.0])
    found = finite_scores(scores, source="test", name=str)
    assert found is not None
    assert found.tolist() == [1.0, 2.0, 3.0, 2.0, 1.0, 2.0]
    below = finite_scores(scores, source="test", name=str, below_lowest=1.0)
    assert below is not None
    assert below.tolist() == [1.0, 2.0, 3.0, 2.0, 0.0, 2.0]
    assert finite_scores(torch.tensor([math.nan, math.inf]), source="test", name=str) is None


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e30, 1e308])
def test_scores_count_the_same_on_every_scale(scale: float) -> None:
    found = scaled(torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64) * scale)
    assert found is not None
    expected = scaled(torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64))
    torch.testing.assert_close(found, expected)


def test_equal_scores_say_nothing() -> None:
    assert scaled(torch.tensor([0.7, 0.7 + 1e-12], dtype=torch.float64)) is None
    assert scaled(torch.zeros(3, dtype=torch.float64)) is None
    assert scaled(torch.zeros(0, dtype=torch.float64)) is None
