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
    """Cosine similarity of the question and each text, [texts].

    Args:
        embedder: LangChain Embeddings (embed_query, embed_documents), LlamaIndex BaseEmbedding (get_query_embedding,
            get_text_embedding_batch), or a function from a list of texts to a list of vectors.

    Raises:
        ConfigError: it is none of these, or it returns something else than one vector per text.
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
    matrix = torch.stack([torch.as_tensor(v, dtype=torch.float32) for v in vectors])
    return torch.cosine_similarity(matrix, torch.as_tensor(query, dtype=torch.float32)[None], dim=-1)
