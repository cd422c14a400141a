"""Readings without a draft, for tests of what is kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spec_rag.compression.packing import ScoredDocuments
from spec_rag.compression.passages import Passage
from spec_rag.text.documents import Document
from spec_rag.text.units import unit_spans, word_spans


def reading_of(texts: Sequence[str], scores: Sequence[float], unit: str = "sentence") -> ScoredDocuments:
    """What a draft would have read: each word a token, important where it is written in capitals."""
    units = [unit_spans(text, unit) for text in texts]
    passages, tokens, first = [], [], 0
    for d, text in enumerate(texts):
        found = word_spans(text)
        passages.append(Passage(d, 0, len(text), list(range(len(found))), found, first))
        tokens += [1.0 if text[a:b].isupper() else 0.1 for a, b in found]
        first += len(found)
    documents = [Document(text) for text in texts]
    assert len(scores) == sum(map(len, units))
    return ScoredDocuments(documents, "q", "draft", units, passages, torch.tensor(scores), torch.tensor(tokens), 0.0)


def words(text: str) -> int:
    """A count of tokens that everybody can follow."""
    return len(text.split())
