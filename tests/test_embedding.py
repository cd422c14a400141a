"""Similarity by whatever embedding model a chain has."""

from __future__ import annotations

from typing import Any

import pytest

from spec_rag.compression.embedding import similarities
from spec_rag.errors import ConfigError

VECTORS = {"q": [1.0, 0.0], "same": [3.0, 0.0], "other": [0.0, 2.0], "against": [-1.0, 0.0]}
TEXTS = ["same", "other", "against"]


class OfLangChain:
    def embed_query(self, text: str) -> list[float]:
        return VECTORS[text]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [VECTORS[text] for text in texts]


class OfLlamaIndex:
    def get_query_embedding(self, text: str) -> list[float]:
        return VECTORS[text]

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
        return [VECTORS[text] for text in texts]


@pytest.mark.parametrize("embedder", [OfLangChain(), OfLlamaIndex(), lambda texts: [VECTORS[text] for text in texts]])
def test_a_text_is_as_similar_as_its_vector_points_the_same_way(embedder: Any) -> None:
    assert similarities(embedder, "q", TEXTS).tolist() == pytest.approx([1.0, 0.0, -1.0])


def test_what_gives_too_few_vectors_or_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="returned 1 vectors for 3 texts"):
        similarities(lambda texts: [[1.0], [1.0]], "q", TEXTS)
    with pytest.raises(ConfigError, match="embedder of type int"):
        similarities(5, "q", TEXTS)
