"""What the draft, the retriever, an embedding model and the titles say about the units of a question's documents.

Passages are read, or found read, and all that is seen is lined up per unit. This module does not decide what is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spec_rag.attention.capture import capture
from spec_rag.attention.importance import PromptImportance
from spec_rag.attention.selection import smooth
from spec_rag.compression.calibration import layer_range
from spec_rag.compression.draft import Draft, calibration_for
from spec_rag.compression.draft_reader import reader_for
from spec_rag.compression.embedding import similarities
from spec_rag.compression.index import DocumentIndex
from spec_rag.compression.links import title_links
from spec_rag.compression.passages import Passage, align_units, frame, question_tokens
from spec_rag.compression.reading import encode_passages
from spec_rag.config import CompressionConfig, SpecPCConfig
from spec_rag.errors import ConfigError, PromptTooLongError
from spec_rag.text.documents import Document
from spec_rag.text.units import Span

NEUTRAL_QUESTIONS = ("what is this about?", "tell me more about it", "who, what, when and where?")


@dataclass(frozen=True)
class Inquiry:
    """One question over documents, with everything that is needed to look for what matters.

    Attributes:
        documents: as given.
        units: per document, spans of its units.
        passages: what the draft reads in one piece.
        question: the question.
        config: which signals are wanted.
        index: where encoded passages are kept, or None.
        embedder: an embedding model, or None.
        backend: kernel backend; None chooses by device.
        cancelled: an event that ends the work when it is set, or None.
    """

    documents: Sequence[Document]
    units: Sequence[Sequence[Span]]
    passages: Sequence[Passage]
    question: str
    config: CompressionConfig
    index: DocumentIndex | None = None
    embedder: Any = None
    backend: str | None = None
    cancelled: threading.Event | None = None

    @property
    def owners(self) -> list[int]:
        """The document of each unit."""
        return [d for d, spans in enumerate(self.units) for _ in spans]

    @property
    def unit_texts(self) -> list[str]:
        """The text of each unit."""
        return [self.documents[d].text[a:b] for d, spans in enumerate(self.units) for a, b in spans]


@dataclass(frozen=True)
class Signals:
    """What is known about the units of all documents, for one question.

    Attributes:
        ranges: int64 [units, 2], first and last-but-one token of each unit among all passages' tokens.
        passages: int64 [units], the passage each unit belongs to.
        documents: int64 [units], the document each unit belongs to.
        passage_ranges: int64 [passages, 2], their tokens.
        attention: [layers, heads, tokens], the most that the question attends to each token; or [1, 1, tokens].
        neutral: the same, averaged over neutral questions, or None.
        unit_heads: [layers, heads], how far each head is trusted to tell units apart, or None.
        passage_heads: the same for passages.
        log_likelihood: [passages, question tokens], log p of the question's own tokens given each passage, or None.
        similarity: [units], embedding similarity of unit and question, or None.
        retrieval: [units], the retriever's score of the unit's document, or None.
        links: [units, documents], how far (0 to 1) a unit names the title of another document, or None.
    """

    ranges: Tensor
    passages: Tensor
    documents: Tensor
    passage_ranges: Tensor
    attention: Tensor
    neutral: Tensor | None = None
    unit_heads: Tensor | None = None
    passage_heads: Tensor | None = None
    log_likelihood: Tensor | None = None
    similarity: Tensor | None = None
    retrieval: Tensor | None = None
    links: Tensor | None = None


def gather_signals(draft: Draft, inquiry: Inquiry) -> Signals:
    """Read what has to be read, let the question look at it, and line up all that is known of each unit.

    Raises:
        ConfigError: an index was given for scoring="joint", which cannot use it.
        PromptTooLongError: scoring="joint", and the documents are beyond the draft's context.
        CancelledError: the inquiry was cancelled.
    """
    look = _look_side_by_side if inquiry.config.scoring == "per_document" else _look_jointly
    seen: dict[str, Any] = {**look(draft, inquiry), **_look_around(inquiry)}
    return Signals(**align_units(inquiry.units, inquiry.passages), **seen)


def joint_importance(draft: Draft, passages: Sequence[Passage], question: str, backend: str | None = None) -> Tensor:
    """The paper's importance of each token, from one prompt of instruction, passages and question (section 4.2).

    Returns:
        float32 [passage tokens + question tokens], not smoothed; the question's frame counts as its own.

    Raises:
        PromptTooLongError: the prompt is beyond the draft's context.
    """
    layout = frame(draft.tokenizer)
    body = [token for passage in passages for token in passage.ids]
    ids = [*layout.head, *body, *question_tokens(draft.tokenizer, layout, question).ids]
    limit = draft.context_tokens
    if limit is not None and len(ids) > limit:
        raise PromptTooLongError(
            f"scoring='joint' needs a prompt of {len(ids)} tokens, but the draft {draft.name!r} takes {limit}: use "
            "scoring='per_document', or fewer documents."
        )
    first_layer, _ = layer_range(draft.total_layers)
    settings = SpecPCConfig(
        window_size=min(64, len(ids) - 1), max_capacity_prompt=len(ids), starting_layer_index=first_layer
    )
    observer = PromptImportance(settings, backend=backend)
    prompt = torch.tensor([ids], device=draft.model.device)
    with capture(draft.model, observer), torch.no_grad():
        draft.model.get_decoder()(input_ids=prompt, use_cache=False)
    return observer.result()[0].float().cpu()[len(layout.head) :]


def _look_side_by_side(draft: Draft, inquiry: Inquiry) -> dict[str, Tensor | None]:
    """Passages are read one by one, and the question looks at all of them at once."""
    config = inquiry.config
    calibration = calibration_for(draft, config)
    first_layer, last_layer = calibration.layer_range if calibration else layer_range(draft.total_layers)
    reader = reader_for(draft, config, inquiry.backend)
    encoded = encode_passages(reader, inquiry.passages, inquiry.documents, inquiry.index, inquiry.cancelled)
    asked = question_tokens(draft.tokenizer, reader.frame, inquiry.question)
    rows = [asked]
    if config.contrast:
        rows += [question_tokens(draft.tokenizer, reader.frame, neutral) for neutral in NEUTRAL_QUESTIONS]
    attention = reader.attention(encoded, rows, first_layer, last_layer).float().cpu()
    competes = config.likelihood and len(inquiry.passages) > 1
    return {
        "attention": attention[0],
        "neutral": attention[1:].mean(0) if config.contrast else None,
        "unit_heads": calibration.weights("unit", first_layer, last_layer) if calibration else None,
        "passage_heads": calibration.weights("passage", first_layer, last_layer) if calibration else None,
        "log_likelihood": reader.log_likelihood(encoded, asked, inquiry.cancelled) if competes else None,
    }


def _look_jointly(draft: Draft, inquiry: Inquiry) -> dict[str, Tensor | None]:
    """All documents in one prompt, as the paper reads them."""
    if inquiry.index is not None:
        raise ConfigError("scoring='joint' reads all documents in one prompt, so index= has no use: leave it out.")
    importance = joint_importance(draft, inquiry.passages, inquiry.question, inquiry.backend)
    own = sum(len(p.ids) for p in inquiry.passages)
    return {"attention": smooth(importance, SpecPCConfig.kernel_size, SpecPCConfig.pool_type)[:own][None, None]}


def _look_around(inquiry: Inquiry) -> dict[str, Tensor | None]:
    """What does not come from the draft: retrieval scores, embeddings, words."""
    documents, owners, texts = inquiry.documents, inquiry.owners, inquiry.unit_texts
    given = [document.score for document in documents]
    retrieval = None
    if inquiry.config.retrieval and all(score is not None for score in given) and len(set(given)) > 1:
        retrieval = torch.tensor([float(given[d] or 0.0) for d in owners])
    similarity = None
    if inquiry.embedder is not None:
        titles = [documents[d].title for d in owners]
        titled = [f"{title}. {text}" if title else text for title, text in zip(titles, texts, strict=True)]
        similarity = similarities(inquiry.embedder, inquiry.question, titled)
    links = None
    if inquiry.config.links:
        links = title_links([document.title for document in documents], texts, owners)
    return {"retrieval": retrieval, "similarity": similarity, "links": links}
