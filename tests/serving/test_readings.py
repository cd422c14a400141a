"""What a server remembers of a reading, and what makes another reading of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from serving.helpers import engine

from spec_rag import Document
from spec_rag.options.compression import CompressionConfig
from spec_rag.report import Compression
from spec_rag.serving.engine import LocalEngine

DOCUMENTS = [Document(f"Hut {i} is red. Its stove burns oak.", title=f"Hut {i}") for i in range(3)]
QUESTION = "Which hut is warm?"
CONFIG = CompressionConfig(ratio=0.5, cascade="never")


@pytest.fixture(scope="module")
def own() -> LocalEngine:
    return engine()


def compressed(own: LocalEngine, documents: list[Document], question: str = QUESTION, **more: Any) -> Compression:
    return asyncio.run(own.compress(documents, question, CONFIG.changed(**more)))


def importances(found: Compression) -> list[float]:
    return [unit.importance for document in found.documents for unit in document.units]


def scored(*scores: float) -> list[Document]:
    return [replace(document, score=score) for document, score in zip(DOCUMENTS, scores, strict=True)]


def test_a_reading_is_remembered_for_other_budgets(own: LocalEngine) -> None:
    first = compressed(own, DOCUMENTS)
    again = compressed(own, DOCUMENTS, ratio=0.3)
    assert first.draft_seconds > 0.0 == again.draft_seconds
    assert importances(first) == importances(again)


@pytest.mark.parametrize("cascade", ["never", "auto", "always"])
def test_other_scores_of_the_retriever_are_another_reading(own: LocalEngine, cascade: Any) -> None:
    rising = compressed(own, scored(0.1, 0.5, 0.9), cascade=cascade)
    falling = compressed(own, scored(0.9, 0.5, 0.1), cascade=cascade)
    without = compressed(own, DOCUMENTS, cascade=cascade)
    assert falling.draft_seconds > 0
    assert importances(rising) != importances(falling) != importances(without)
    assert importances(compressed(own, scored(0.1, 0.5, 0.9), cascade=cascade)) == importances(rising)


def test_other_titles_texts_and_questions_are_other_readings(own: LocalEngine) -> None:
    compressed(own, DOCUMENTS)
    retitled = [replace(DOCUMENTS[0], title="Kiln"), *DOCUMENTS[1:]]
    assert compressed(own, retitled).draft_seconds > 0
    assert compressed(own, [replace(DOCUMENTS[0], text="A kiln is hot."), *DOCUMENTS[1:]]).draft_seconds > 0
    assert compressed(own, DOCUMENTS, "Which hut is red?").draft_seconds > 0
    assert compressed(own, DOCUMENTS, title_links=False).draft_seconds > 0


def test_what_only_the_result_depends_on_is_not_part_of_a_reading(own: LocalEngine) -> None:
    compressed(own, DOCUMENTS)
    renamed = [replace(document, id="x", metadata={"place": "east"}) for document in DOCUMENTS]
    found = compressed(own, renamed)
    assert found.draft_seconds == 0.0
    assert [document.source.id for document in found.documents] == ["x"] * 3


def test_a_document_without_words_is_the_least_relevant(own: LocalEngine) -> None:
    scores = asyncio.run(own.relevance([Document("---"), *DOCUMENTS, Document("")], QUESTION, CompressionConfig()))
    assert scores[0] == scores[-1] == float("-inf")
    assert min(scores[1:-1]) > float("-inf")
