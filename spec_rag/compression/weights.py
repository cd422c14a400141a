"""What each part of a score weighs, and how links are followed: the constants of scoring, by version.

Those of "2026" were chosen by cross-validation over four kinds of questions, each weighing the same; see
docs/measurements.md. Those of "2025" are kept for comparisons. This module knows numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spec_rag.options.compression import Version


@dataclass(frozen=True)
class LinkRule:
    """How a sentence that names another document's title raises that document.

    Attributes:
        weight: what the best unit adds that names a title in full.
        sharpness: how much less a unit's word counts per deviation below the best one.
        share: the least part of a title that must be named.
        smoothing: added to the number of documents when words are weighed.
        only_news: count of a title only what the question has not said already.
    """

    weight: float = 8.0
    sharpness: float = 0.5
    share: float = 0.4
    smoothing: float = 0.5
    only_news: bool = True


@dataclass(frozen=True)
class Weights:
    """What the parts of a score weigh beside 1 for attention; all parts have unit deviation.

    Attributes:
        likelihood: of the question, given the passage.
        retrieval: the retriever's score of the document.
        similarity: of question and unit, by an embedding model; None fuses its ranks with those of the score so far.
        document_similarity: the most that a unit of the document has.
        title: of a document whose title is the question; larger than what other parts put between two documents.
        links: how links are followed.
    """

    likelihood: float = 0.5
    retrieval: float = 0.75
    similarity: float | None = 0.75
    document_similarity: float = 0.25
    title: float = 5.0
    links: LinkRule = LinkRule()


WEIGHTS: Mapping[Version, Weights] = {
    "2026": Weights(),
    "2025": Weights(
        likelihood=0.75,
        retrieval=0.5,
        similarity=None,
        document_similarity=0.0,
        title=0.0,
        links=LinkRule(weight=2.0, sharpness=1.5, share=0.6, smoothing=0.0, only_news=False),
    ),
}
