"""A context processor of BERGEN's shape: lists of texts and questions in, lists of texts and figures out."""

from __future__ import annotations

import pytest
from bergen_spec_rag import SpecPCContextProcessor
from tiny import tiny_pair

BAKERY = "Bread is baked daily. The baker is Odalys Fenn, of Tarn. She sleeps late."
HARBOUR = "Ferries leave at noon. The pier is old. Gulls wait for bread."


def test_each_question_has_its_documents_back_shorter_and_in_order() -> None:
    processor = SpecPCContextProcessor(ratio=0.5, draft=tiny_pair())
    contexts = [[BAKERY, HARBOUR], [HARBOUR]]
    found, figures = processor.process(contexts, ["Who is the baker?", "When do ferries leave?"])
    assert [len(texts) for texts in found] == [2, 1]
    for texts, given in zip(found, contexts, strict=True):
        for text, whole in zip(texts, given, strict=True):
            assert all(piece.strip(". ") in whole for piece in text.split(". "))
    before = sum(len(text) for text in contexts[0])
    assert sum(len(text) for text in found[0]) <= 0.6 * before
    assert 30 < figures["context_compression"] < 100
    assert figures["draft_seconds"] > 0
    assert processor.name == "spec_rag_ratio0.5"


def test_questions_and_documents_belong_together() -> None:
    with pytest.raises(ValueError, match="zip"):
        SpecPCContextProcessor(draft=tiny_pair()).process([[BAKERY]], [])
