"""Similarity of texts by an embedding model that the chain already has.

Works with LangChain's Embeddings, LlamaIndex's BaseEmbedding, and plain functions. It does not know documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spec_rag.errors import ConfigError


def similarities(embedder: Any, question: str, texts: Sequence[str]) -> Tensor:
    """Cosine similarity of the question and each text.

    Args:
        embedder: LangChain Embeddings (embed_query, embed_documents), LlamaIndex BaseEmbedding (get_query_embedding,
            get_text_embedding_batch), or a function from a list of texts to a list of vectors.

    Returns:
        float64 [texts], in [-1, 1] for vectors of any length; 0 for a vector of zeros, nan for a vector that is not
        finite.

    Raises:
        ConfigError: it is none of these, or it returns something else than one vector of one length per text.
    """
    if hasattr(embedder, "embed_documents") and hasattr(embedder, "embed_query"):
        query, vectors = embedder.embed_query(question), embedder.embed_documents(list(texts))
    elif hasattr(embedder, "get_text_embedding_batch") and hasattr(embedder, "get_query_embedding"):
        query, vectors = embedder.get_query_embedding(question), embedder.get_text_embedding_batch(list(texts))
    elif callable(embedder):
        query, *vectors = embedder([question, *texts])
    else:
        raise ConfigError(
            f"embedder of type {type(embedder).__name__}: give LangChain Embeddings, a LlamaIndex BaseEmbedding, or a "
            "function from a list of texts to vectors."
        )
    if len(vectors) != len(texts):
        raise ConfigError(
            f"embedder returned {len(vectors)} vectors for {len(texts)} texts: it must return one for each."
        )
    asked, *found = [_vector(vector, i - 1) for i, vector in enumerate([query, *vectors])]
    for i, vector in enumerate(found):
        if vector.shape != asked.shape:
            raise ConfigError(
                f"embedder returned {len(vector)} numbers for text {i} and {len(asked)} for the question: all vectors "
                "must have one length."
            )
    if not found:
        return torch.zeros(0, dtype=torch.float64)
    return (_directions(torch.stack(found)) @ _directions(asked)).clamp(-1, 1)


def _vector(given: Any, text: int) -> Tensor:
    """float64 [numbers]; `text` is its index, -1 for the question."""
    try:
        if isinstance(given, Tensor):
            vector = given.detach().to("cpu", torch.float64)
        else:
            # numpy's floats do not widen by themselves, and its arrays may be read-only
            vector = torch.tensor(given.tolist() if hasattr(given, "tolist") else list(given), dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _no_vector(given, text) from error
    if vector.ndim != 1 or not len(vector):
        raise _no_vector(given, text)
    return vector


def _no_vector(given: Any, text: int) -> ConfigError:
    what = "the question" if text < 0 else f"text {text}"
    return ConfigError(f"embedder returned {given!r:.80} for {what}: it must return a vector of numbers.")


def _directions(vectors: Tensor) -> Tensor:
    """[..., numbers] of unit length; zeros stay zeros.

    Dividing by the largest entry first keeps squares of very small and very large entries within float64.
    """
    largest = vectors.abs().amax(-1, keepdim=True)
    shrunk = vectors / torch.where(largest > 0, largest, 1.0)
    length = shrunk.square().sum(-1, keepdim=True).sqrt()
    return shrunk / torch.where(length > 0, length, 1.0)
