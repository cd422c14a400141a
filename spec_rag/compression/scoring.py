"""From what was seen to one score per unit: small pure functions behind one seam.

Each part takes the `Features` of one question and the score so far, and returns the score with its own say, or as it is
where its signal is missing. A new idea is a new function and a line in `PARTS`. This module does not know models,
documents or budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from spec_rag.compression.features import Features
from spec_rag.compression.title_links import follow_links
from spec_rag.compression.weights import WEIGHTS

UNIT_TOKENS, PASSAGE_TOKENS = 3, 8  # the best tokens that speak for a unit, and for its passage

_WORDS = 0.5  # beside 1 for what a retriever or an embedder says
_FUSION_OFFSET = 5.0  # reciprocal ranks: how little the first place is worth more than the second
_FUSED = 1.5  # deviation of a fused score

_PER_UNIT = ("similarity", "scorer", "retrieval", "words", "titles")

Part = Callable[[Features, Tensor], Tensor]


def token_importance(signals: Features, heads: Tensor | None = None) -> Tensor:
    """[tokens]: mean over layers of the best head's attention, or the sum over `heads` [layers, heads] by weight."""
    gain = signals.attention
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


def reciprocal_rank(scores: Tensor) -> Tensor:
    """1 / (5 + rank), rank 0 for the best; ties keep reading order. [units] -> [units]."""
    rank = torch.zeros_like(scores)
    rank[scores.argsort(descending=True, stable=True)] = torch.arange(len(scores), dtype=scores.dtype)
    return 1.0 / (_FUSION_OFFSET + rank)


def shared_reciprocal_rank(scores: Tensor) -> Tensor:
    """1 / (5 + rank), equal scores sharing the rank of the first of them. [units] -> [units]."""
    rank = len(scores) - torch.searchsorted(scores.sort().values, scores, right=True)
    return 1.0 / (_FUSION_OFFSET + rank)


def attention(signals: Features, score: Tensor) -> Tensor:
    """What the unit shows and what its passage, with its title, shows.

    A calibration does not replace each layer's best head but has a say of the same weight.
    """
    unit = _shown(signals, signals.unit_heads, signals.ranges, UNIT_TOKENS)
    passage = _shown(signals, signals.passage_heads, signals.passage_ranges, PASSAGE_TOKENS, signals.passages)
    return score + standardised(standardised(unit) + standardised(passage))


def likelihood(signals: Features, score: Tensor) -> Tensor:
    """How much better the unit's passage foretells the question's words than passages do on average.

    Only gains count: a word that a passage makes less likely tells nothing, and a passage that was not asked gains
    nothing.
    """
    if signals.log_likelihood is None:
        return score
    gain = (signals.log_likelihood - signals.log_likelihood.nanmean(0)).clamp(min=0).nan_to_num(0).sum(1)
    return score + WEIGHTS.likelihood * standardised(gain[signals.passages])


def retrieval(signals: Features, score: Tensor) -> Tensor:
    """The retriever's own score of the unit's document."""
    if signals.retrieval is None:
        return score
    return score + WEIGHTS.retrieval * standardised(signals.retrieval)


def similarity(signals: Features, score: Tensor) -> Tensor:
    """The embedding similarity of the unit, and the best in its document."""
    if signals.similarity is None:
        return score
    own = signals.similarity.float()
    best = torch.full((1 + int(signals.documents.max()),), -torch.inf).scatter_reduce(0, signals.documents, own, "amax")
    whole = standardised(best[signals.documents])
    return score + WEIGHTS.similarity * standardised(own) + WEIGHTS.document_similarity * whole


def scorer(signals: Features, score: Tensor) -> Tensor:
    """The ranks of the score so far and of what a scorer of the user's own says, fused."""
    if signals.scorer is None:
        return score
    return _FUSED * standardised(reciprocal_rank(score) + shared_reciprocal_rank(signals.scorer))


def titles(signals: Features, score: Tensor) -> Tensor:
    """More for all units of a document whose title is the question."""
    if signals.titles is None:
        return score
    return score + WEIGHTS.title * signals.titles


def links(signals: Features, score: Tensor) -> Tensor:
    """More for a document whose title a promising unit of another names."""
    if signals.links is None:
        return score
    return follow_links(score, signals.links, signals.documents, WEIGHTS.links)


PARTS: Mapping[str, Part] = {
    "attention": attention,
    "likelihood": likelihood,
    "retrieval": retrieval,
    "similarity": similarity,
    "scorer": scorer,
    "titles": titles,
    "links": links,
}


def unit_scores(signals: Features) -> Tensor:
    """[units]: what the parts say, one after the other; units of passages that were not read come behind all others."""
    if signals.read is None or bool(signals.read.all()):
        return _scores_of_read(signals)
    read = signals.read[signals.passages]
    scores, prior = torch.zeros(len(read)), prior_scores(signals)
    scores[read] = _scores_of_read(_only(signals, read))
    last = scores[read].min() if bool(read.any()) else torch.tensor(0.0)
    scores[~read] = last - 1 - (prior[~read].max() - prior[~read])
    return scores


def prior_scores(signals: Features) -> Tensor:
    """[units]: what is known without the draft: retrieval scores, similarity, scorer, words, titles."""
    ranked = None if signals.scorer is None else shared_reciprocal_rank(signals.scorer)
    told = [known for known in (signals.retrieval, signals.similarity, ranked) if known is not None]
    score = torch.zeros(len(signals.ranges))
    for known in told:
        score = score + standardised(known.float())
    if signals.words is not None:
        score = score + (_WORDS if told else 1.0) * standardised(signals.words)
    return links(signals, titles(signals, standardised(score)))


def _scores_of_read(signals: Features) -> Tensor:
    score = torch.zeros(len(signals.ranges))
    for part in PARTS.values():
        score = part(signals, score)
    return score


def _only(signals: Features, units: Tensor) -> Features:
    """The signals of some units alone, bool [units]; passages and documents keep their numbers."""
    per_unit = {name: getattr(signals, name) for name in ("ranges", "passages", "documents", *_PER_UNIT)}
    chosen: dict[str, Any] = {name: None if value is None else value[units] for name, value in per_unit.items()}
    if signals.links is not None:
        place = units.cumsum(0) - 1
        own = signals.links[units[signals.links[:, 0].long()]].clone()
        own[:, 0] = place[own[:, 0].long()].to(own.dtype)
        chosen["links"] = own
    return replace(signals, **chosen)


def _shown(signals: Features, heads: Tensor | None, ranges: Tensor, count: int, owners: Tensor | None = None) -> Tensor:
    """[units]: the best tokens of each unit or of the passage that owns it; square roots tame the long tail."""
    total = torch.zeros(len(signals.ranges))
    for trusted in (None,) if heads is None else (None, heads):
        scores = best_tokens(token_importance(signals, trusted), ranges, count).sqrt()
        total = total + standardised(scores if owners is None else scores[owners])
    return total
