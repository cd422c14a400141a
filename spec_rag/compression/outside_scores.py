"""Scores of units that do not need the draft: retriever, embedding model, scorer, titles, words.

They are gathered before the draft's lock is taken. This module does not decide what is read or kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spec_rag.compression.embedding_similarity import similarities
from spec_rag.compression.external_scorers import scorer_scores
from spec_rag.compression.features import CompressionRequest, Features
from spec_rag.compression.finite_scores import document_name, finite_scores, scaled
from spec_rag.compression.passages import align_units
from spec_rag.compression.title_links import title_links
from spec_rag.text.documents import Document, given_score, with_title
from spec_rag.text.words import title_match, word_overlap


def outside_signals(inquiry: CompressionRequest) -> Features:
    """Ask everything but the draft: the retriever's scores, the embedder, the scorer and the titles.

    Embedder and scorer are the caller's code, which may be slow and may use the same draft: never call this while the
    draft's lock is held.
    """
    documents, owners, texts = inquiry.documents, inquiry.owners, inquiry.unit_texts
    config, titles = inquiry.config, [document.title for document in inquiry.documents]
    similarity = scorer = links = stated = None
    retrieval = retrieval_scores(documents, owners) if config.retrieval else None
    if inquiry.embedder is not None:
        similarity = finite_scores(
            similarities(inquiry.embedder, inquiry.question, _titled(titles, texts, owners)),
            source=f"embedder={type(inquiry.embedder).__name__}",
            name=lambda unit: document_name(documents, owners[unit]),
        )
    if inquiry.scorer is not None:
        own = [titles[d] for d in owners]
        scorer = scorer_scores(inquiry.scorer, inquiry.question, texts, own, documents, owners)
    if config.title_links:
        stated = title_matches(titles, owners, inquiry.question)
        links = title_links(titles, texts, owners, inquiry.question)
    aligned = align_units(inquiry.units, inquiry.passages)
    return Features(
        **aligned,
        attention=torch.zeros(1, 1, 0),
        retrieval=retrieval,
        similarity=similarity,
        scorer=scorer,
        text=None if config.scoring == "joint" else text_features(inquiry, aligned),
        titles=stated,
        links=links,
    )


def text_features(inquiry: CompressionRequest, aligned: Mapping[str, Tensor]) -> Tensor:
    """float32 [units, TEXT]: words shared with the question (BM25), length, and place in the document.

    Args:
        aligned: as `align_units` returns it.
    """
    titles = [document.title for document in inquiry.documents]
    passages = [
        f"{titles[p.document] or ''}\n{inquiry.documents[p.document].text[p.start : p.end]}" for p in inquiry.passages
    ]
    documents = aligned["documents"]
    shared = [
        word_overlap(inquiry.question, _titled(titles, inquiry.unit_texts, inquiry.owners)),
        word_overlap(inquiry.question, inquiry.unit_texts),
        torch.tensor(word_overlap(inquiry.question, passages))[aligned["passages"]],
        torch.tensor(word_overlap(inquiry.question, [title or "" for title in titles]))[documents],
    ]
    tokens = (aligned["ranges"][:, 1] - aligned["ranges"][:, 0]).clamp(min=1)
    place = torch.tensor([i for spans in inquiry.units for i in range(len(spans))])
    found = [*shared, tokens.log(), place == 0, (place + 1.0).log()]
    return torch.stack([torch.as_tensor(values).float() for values in found], dim=1)


def title_matches(titles: Sequence[str | None], owners: Sequence[int], question: str) -> Tensor | None:
    """[units]: how far the title of the unit's document states the question; None where no title or each one does."""
    found = [title_match(question, title) for title in titles]
    if len(set(found)) < 2:
        return None
    return torch.tensor([found[d] for d in owners])


def retrieval_scores(documents: Sequence[Document], owners: Sequence[int]) -> Tensor | None:
    """The retriever's score of each unit's document, on a scale of its own.

    Args:
        documents: with their scores.
        owners: the document of each unit.

    Returns:
        float32 [units] in [-1, 1]; None where a document has no score, or where the scores do not differ. One that is
        not finite takes the median of the others (-inf the lowest), with one warning.
    """
    if not owners or any(document.score is None for document in documents):
        return None
    given = torch.tensor([document.score for document in documents], dtype=torch.float64)
    found = finite_scores(
        given,
        source="The retriever's scores",
        name=lambda i: document_name(documents, i),
        given=[given_score(document) for document in documents],
    )
    return None if found is None else scaled(found[torch.tensor(owners)])


def _titled(titles: Sequence[str | None], texts: Sequence[str], owners: Sequence[int]) -> list[str]:
    return [with_title(titles[d], text) for d, text in zip(owners, texts, strict=True)]
