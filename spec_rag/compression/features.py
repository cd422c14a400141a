"""The request of a compression and the features of its units.

`CompressionRequest` holds the documents, the question and the settings. `Features` holds the outputs of the draft, the
retriever, an embedding model and title matching, aligned per unit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.compression.passages import Passage
from spec_rag.options.compression import CompressionConfig
from spec_rag.text.documents import Document
from spec_rag.text.structure.outline import Structure
from spec_rag.text.units import Span


@dataclass(frozen=True)
class CompressionRequest:
    """One question over documents, with everything that is needed to look for what matters.

    Attributes:
        documents: as given.
        units: per document, spans of its units.
        passages: what the draft reads in one piece.
        question: the question.
        config: which signals are wanted.
        index: where encoded passages are kept, or None.
        embedder: an embedding model, or None.
        scorer: whatever else says how well a text answers a question, or None.
        backend: kernel backend; None chooses by device.
        cancelled: an event that ends the work when it is set, or None.
        structures: per document, the kinds and needs of its units; empty where they are not known.
    """

    documents: Sequence[Document]
    units: Sequence[Sequence[Span]]
    passages: Sequence[Passage]
    question: str
    config: CompressionConfig
    index: DocumentIndex | None = None
    embedder: Any = None
    scorer: Any = None
    backend: str | None = None
    cancelled: threading.Event | None = None
    structures: Sequence[Structure] = ()

    @cached_property
    def owners(self) -> list[int]:
        """The document of each unit."""
        return [d for d, spans in enumerate(self.units) for _ in spans]

    @cached_property
    def unit_texts(self) -> list[str]:
        """The text of each unit, behind the text of what it needs."""
        structures = self.structures or [Structure.plain(spans) for spans in self.units]
        return [
            structure.shown_text(document.text, unit)
            for document, structure in zip(self.documents, structures, strict=True)
            for unit in range(len(structure.spans))
        ]


@dataclass(frozen=True)
class Features:
    """What is known about the units of all documents, for one question.

    Attributes:
        ranges: int64 [units, 2], first and last-but-one token of each unit among all passages' tokens.
        passages: int64 [units], the passage each unit belongs to.
        documents: int64 [units], the document each unit belongs to.
        passage_ranges: int64 [passages, 2], their tokens.
        attention: [layers, heads, tokens], the most that the question attends to each token; or [1, 1, tokens]. 0 in
            passages that were not read; empty before any was.
        read: bool [passages], which of them the draft has read; None for all.
        similarity: [units], embedding similarity of unit and question, or None.
        scorer: [units], what a scorer of the user's own says, of which only the order counts; or None.
        retrieval: [units], the retriever's score of the unit's document, scaled into [-1, 1], or None.
        text: float32 [units, features], the features TEXT of `readout`, not standardised; or None.
        titles: [units], how far the title of the unit's document states the question (0 to 1), or None.
        links: float64 [links, 3], a unit, a document whose title it names, and how far (0 to 1); or None.
    """

    ranges: Tensor
    passages: Tensor
    documents: Tensor
    passage_ranges: Tensor
    attention: Tensor
    read: Tensor | None = None
    similarity: Tensor | None = None
    scorer: Tensor | None = None
    retrieval: Tensor | None = None
    text: Tensor | None = None
    titles: Tensor | None = None
    links: Tensor | None = None
