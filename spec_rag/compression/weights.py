"""Weights of the parts of a score, and the rule for title links.

They were chosen by cross-validation over four kinds of questions with equal weights; see docs/measurements.md.
"""

from __future__ import annotations

from dataclasses import dataclass


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
        similarity: of question and unit, by an embedding model.
        document_similarity: the most that a unit of the document has.
        title: of a document whose title is the question; larger than what other parts put between two documents.
        links: how links are followed.
    """

    likelihood: float = 0.5
    retrieval: float = 0.75
    similarity: float = 0.75
    document_similarity: float = 0.25
    title: float = 5.0
    links: LinkRule = LinkRule()


WEIGHTS = Weights()
