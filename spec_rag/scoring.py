"""From what the draft saw to one score per unit: small pure functions behind one seam.

Each part takes the `Evidence` of one question and returns a score per unit, or None where the evidence for it is
missing; `unit_scores` adds the parts. A new idea is a new function and a line in `PARTS`. This module does not know
models, documents or budgets.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_FLOOR = 1e-4  # attention below it counts as none when two questions are compared
UNIT_TOKENS, PASSAGE_TOKENS = 3, 8  # the best tokens that speak for a unit, and for its passage
_FUSION_OFFSET = 5.0  # reciprocal ranks: how little the first place is worth more than the second
_LINK_WEIGHT, _LINK_SHARPNESS, _LINK_SHARE = 2.0, 1.5, 0.6


@dataclass(frozen=True)
class Evidence:
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


def contrast(attention: Tensor, neutral: Tensor | None) -> Tensor:
    """What each head looks at more for this question than for any.

    Args:
        attention, neutral: [layers, heads, tokens]; no neutral question leaves the attention as it is.

    Returns:
        [layers, heads, tokens]: a * max(0, log((a + 1e-4) / (b + 1e-4))).
    """
    if neutral is None:
        return attention
    return attention * ((attention + _FLOOR) / (neutral + _FLOOR)).log().clamp(min=0)


def token_importance(evidence: Evidence, heads: Tensor | None = None) -> Tensor:
    """[tokens]: mean over layers of the best head's contrast, or the sum over `heads` [layers, heads] by weight."""
    gain = contrast(evidence.attention, evidence.neutral)
    return gain.amax(1).mean(0) if heads is None else torch.einsum("lht,lh->t", gain, heads)


def best_tokens(scores: Tensor, ranges: Tensor, count: int) -> Tensor:
    """Mean of the `count` best tokens in each range.

    Args:
        scores: [..., tokens], non-negative.
        ranges: int64 [n, 2].

    Returns:
        [..., n]; 0 for an empty range.
    """
    if not len(ranges):
        return scores.new_zeros(*scores.shape[:-1], 0)
    width = max(1, int((ranges[:, 1] - ranges[:, 0]).max()))
    index = ranges[:, :1] + torch.arange(width, device=ranges.device)
    inside = index < ranges[:, 1:]
    values = scores[..., index.clamp(max=scores.shape[-1] - 1)].masked_fill(~inside, -1)
    best = values.topk(min(count, width), dim=-1).values
    return best.clamp(min=0).sum(-1) / (best >= 0).sum(-1).clamp(min=1)


def standardised(scores: Tensor) -> Tensor:
    """Zero mean and unit deviation; zeros where all are equal."""
    if len(scores) < 2:
        return torch.zeros_like(scores)
    return (scores - scores.mean()) / (scores.std() + 1e-6)


def attended(evidence: Evidence) -> Tensor:
    """What the unit shows and what its passage, with its title, shows.

    A calibration does not replace each layer's best head but has a say of the same weight.
    """
    unit = _shown(evidence, evidence.unit_heads, evidence.ranges, UNIT_TOKENS)
    passage = _shown(evidence, evidence.passage_heads, evidence.passage_ranges, PASSAGE_TOKENS, evidence.passages)
    return standardised(unit) + standardised(passage)


def _shown(
    evidence: Evidence, heads: Tensor | None, ranges: Tensor, count: int, owners: Tensor | None = None
) -> Tensor:
    """[units]: the best tokens of each unit or of the passage that owns it; square roots tame the long tail."""
    total = torch.zeros(len(evidence.ranges))
    for trusted in (None,) if heads is None else (None, heads):
        scores = best_tokens(token_importance(evidence, trusted), ranges, count).sqrt()
        total = total + standardised(scores if owners is None else scores[owners])
    return total


def foretold(evidence: Evidence) -> Tensor | None:
    """How much better the unit's passage foretells the question's words than passages do on average.

    Only gains count: a word that a passage makes less likely tells nothing.
    """
    if evidence.log_likelihood is None:
        return None
    gain = (evidence.log_likelihood - evidence.log_likelihood.mean(0)).clamp(min=0).sum(1)
    return gain[evidence.passages]


def retrieved(evidence: Evidence) -> Tensor | None:
    """The retriever's own score of the unit's document."""
    return evidence.retrieval


PARTS: Mapping[str, tuple[float, Callable[[Evidence], Tensor | None]]] = {
    "attention": (1.0, attended),
    "likelihood": (0.75, foretold),
    "retrieval": (0.5, retrieved),
}


def unit_scores(evidence: Evidence) -> Tensor:
    """[units]: the weighted parts, fused with embedding similarity by rank, then raised along links.

    Without an embedding the scores stay as they are; the parts count as standardised.
    """
    total = torch.zeros(len(evidence.ranges))
    for weight, part in PARTS.values():
        scores = part(evidence)
        if scores is not None:
            total = total + weight * standardised(scores.float())
    if evidence.similarity is not None:
        total = 1.5 * standardised(reciprocal_rank(total) + reciprocal_rank(evidence.similarity.float()))
    return total if evidence.links is None else follow_links(total, evidence.links, evidence.documents)


def reciprocal_rank(scores: Tensor) -> Tensor:
    """1 / (5 + rank), rank 0 for the best; ties keep reading order. [units] -> [units]."""
    rank = torch.zeros_like(scores)
    rank[scores.argsort(descending=True, stable=True)] = torch.arange(len(scores), dtype=scores.dtype)
    return 1.0 / (_FUSION_OFFSET + rank)


def follow_links(scores: Tensor, links: Tensor, documents: Tensor) -> Tensor:
    """Raise the units of a document that a good unit of another names: the second step of a two-step question.

    Args:
        scores: [units], of about unit deviation.
        links: [units, documents], 0 to 1.
        documents: int64 [units].

    Returns:
        [units]: at most 2 more, for a document that the best unit names in full.
    """
    if not len(scores):
        return scores
    trust = (_LINK_SHARPNESS * (scores - scores.max())).exp()
    return scores + _LINK_WEIGHT * (links * trust[:, None]).amax(0)[documents]


def title_links(
    titles: Sequence[str | None], unit_texts: Sequence[str], unit_documents: Sequence[int]
) -> Tensor | None:
    """How fully each unit names the title of another document.

    Words weigh log(documents / documents that hold them): a word that all share names none of them. What stands in
    brackets in a title is left out, and documents of one title do not name each other.

    Returns:
        [units, documents], 0 or 0.6 to 1; None where no document has a title.
    """
    count = len(titles)
    if count < 2 or not any(titles):
        return None
    per_unit = [_words(text) for text in unit_texts]
    per_document = [_words(title or "") for title in titles]
    for words, d in zip(per_unit, unit_documents, strict=True):
        per_document[d] |= words
    held = Counter(word for words in per_document for word in words)
    weight = {word: math.log(count / n) for word, n in held.items()}
    links = torch.zeros(len(unit_texts), count)
    for d, title in enumerate(titles):
        words = _words(re.sub(r"\([^)]*\)", " ", title or ""))
        whole = sum(weight[word] for word in words if word in weight)
        if whole <= 0:
            continue
        for u, own in enumerate(per_unit):
            share = sum(weight[word] for word in words & own) / whole
            if share >= _LINK_SHARE and titles[unit_documents[u]] != title:
                links[u, d] = share
    return links


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
