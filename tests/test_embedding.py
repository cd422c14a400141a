"""Similarity by whatever embedding model a chain has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from spec_rag.compression.embedding_similarity import similarities
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


@pytest.mark.parametrize("question_length", [1e-300, 1e-30, 1.0, 1e30, 1e300])
@pytest.mark.parametrize("text_length", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_the_length_of_vectors_does_not_count(question_length: float, text_length: float) -> None:
    def embedder(texts: list[str]) -> list[list[float]]:
        return [[x * (question_length if text == "q" else text_length) for x in VECTORS[text]] for text in texts]

    for convert in (list, np.array, lambda rows: torch.tensor(rows, dtype=torch.float64)):
        found = similarities(lambda texts, convert=convert: convert(embedder(texts)), "q", TEXTS)  # type: ignore[misc]
        assert found.tolist() == pytest.approx([1.0, 0.0, -1.0])


def test_vectors_of_different_lengths_are_compared_by_direction() -> None:
    vectors = {"q": [1e-20, 1e-20], "same": [1e20, 1e20], "other": [1e-25, 0.0], "against": [-1e30, 1e-30]}
    found = similarities(lambda texts: [vectors[text] for text in texts], "q", TEXTS).tolist()
    assert found == pytest.approx([1.0, math.sqrt(0.5), -math.sqrt(0.5)])


def test_a_vector_of_zeros_is_similar_to_nothing() -> None:
    vectors = {**VECTORS, "other": [0.0, 0.0]}
    assert similarities(lambda texts: [vectors[text] for text in texts], "q", TEXTS).tolist() == [1.0, 0.0, -1.0]
    vectors = {**VECTORS, "q": [0.0, 0.0]}
    assert similarities(lambda texts: [vectors[text] for text in texts], "q", TEXTS).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "convert",
    [
        lambda rows: np.array(rows, dtype=np.float16),
        lambda rows: np.array(rows, dtype=np.float32),
        lambda rows: torch.tensor(rows, dtype=torch.bfloat16),
        lambda rows: torch.tensor(rows, requires_grad=True),
        lambda rows: [tuple(row) for row in rows],
        lambda rows: [[int(x) for x in row] for row in rows],
    ],
)
def test_vectors_of_any_kind_are_read(convert: Any) -> None:
    found = similarities(lambda texts: convert([VECTORS[text] for text in texts]), "q", TEXTS)
    assert found.tolist() == pytest.approx([1.0, 0.0, -1.0])


@pytest.mark.parametrize("bad", [None, "text", 1.0, [], [[1.0]], ["a", "b"]], ids=repr)
def test_what_is_no_vector_is_named(bad: Any) -> None:
    with pytest.raises(ConfigError, match=r"embedder returned .* for text 1"):
        similarities(lambda texts: [bad if text == "other" else VECTORS[text] for text in texts], "q", TEXTS)
    with pytest.raises(ConfigError, match=r"embedder returned .* for the question"):
        similarities(lambda texts: [bad if text == "q" else VECTORS[text] for text in texts], "q", TEXTS)


def test_vectors_of_another_dimension_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 numbers for text 1 and 2 for the question"):
        similarities(lambda texts: [[1.0] * (3 if text == "other" else 2) for text in texts], "q", TEXTS)
