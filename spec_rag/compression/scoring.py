"""Scores of units: a weighted sum of standardised features, title links, and probabilities.

These are pure functions of the `Features` of one question and a `Readout`. This module does not know models, documents
or budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from spec_rag.compression.features import Features
from spec_rag.compression.readout import PLAIN, QUESTION, TEXT, Readout
from spec_rag.compression.title_links import follow_links

UNIT_TOKENS, PASSAGE_TOKENS = 3, 8  # the best tokens that represent a unit, and its passage

_SMALLEST = 1e-7  # attention below it counts as this much
_CLIP = 5.0  # deviations
_FUSION_OFFSET = 5.0  # of reciprocal ranks
_PER_UNIT = ("similarity", "scorer", "retrieval", "text", "titles")


def token_importance(signals: Features) -> Tensor:
    """[tokens]: attention of the best head, mean over layers."""
    return signals.attention.amax(1).mean(0)


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
    """Zero mean and unit deviation over the last dimension, at most 5 from zero; zeros where all are equal."""
    if scores.shape[-1] < 2:
        return torch.zeros_like(scores)
    centred = scores - scores.mean(-1, keepdim=True)
    return (centred / (scores.std(-1, keepdim=True) + 1e-6)).clamp(-_CLIP, _CLIP)


def shared_reciprocal_rank(scores: Tensor) -> Tensor:
    """1 / (5 + rank), rank 0 for the best; equal scores share the rank of the first of them. [units] -> [units]."""
    rank = len(scores) - torch.searchsorted(scores.sort().values, scores, right=True)
    return 1.0 / (_FUSION_OFFSET + rank)


def head_features(signals: Features) -> Tensor:
    """float32 [2, layers, heads, units]: attention of each head to each unit, and to the passage of each unit."""
    unit = best_tokens(signals.attention, signals.ranges, UNIT_TOKENS)
    passage = best_tokens(signals.attention, signals.passage_ranges, PASSAGE_TOKENS)
    return torch.stack([unit, passage[..., signals.passages]])


def standardised_heads(heads: Tensor) -> Tensor:
    """The logarithm of `head_features`, standardised over the units."""
    return standardised((heads + _SMALLEST).log())


def pooled_attention(heads: Tensor) -> Mapping[str, Tensor]:
    """By name in POOLED, [units] each: the best head of each layer, mean over layers; the root limits outliers."""
    return dict(zip(("unit", "passage"), heads.amax(2).mean(1).sqrt(), strict=True))


def unit_features(signals: Features, heads: Tensor | None = None) -> dict[str, Tensor]:
    """Standardised features by name, [units] each: what there is of POOLED, TEXT and OUTSIDE.

    Args:
        heads: `head_features`; None leaves out attention.
    """
    found: dict[str, Tensor] = {} if heads is None else dict(pooled_attention(heads))
    if signals.text is not None:
        found |= dict(zip(TEXT, signals.text.T, strict=True))
    if signals.retrieval is not None:
        found["retrieval"] = signals.retrieval
    if signals.similarity is not None:
        own = signals.similarity.float()
        best = torch.full((1 + int(signals.documents.max()),), -torch.inf)
        best = best.scatter_reduce(0, signals.documents, own, "amax")
        found |= {"similarity": own, "document_similarity": best[signals.documents]}
    if signals.scorer is not None:
        found["scorer"] = shared_reciprocal_rank(signals.scorer).float()
    return {name: standardised(values) for name, values in found.items()}


def unit_scores(signals: Features, readout: Readout = PLAIN, heads: Tensor | None = None) -> Tensor:
    """[units]: the score of each unit; units of passages that were not read come after all others.

    Args:
        heads: `head_features`, where they are known.
    """
    heads = head_features(signals) if heads is None else heads
    if signals.read is None or bool(signals.read.all()):
        return _scores_of_read(signals, readout, heads)
    read = signals.read[signals.passages]
    scores, prior = torch.zeros(len(read)), prior_scores(signals, readout)
    scores[read] = _scores_of_read(only_units(signals, read), readout, heads[..., read])
    last = scores[read].min() if bool(read.any()) else torch.tensor(0.0)
    scores[~read] = last - 1 - (prior[~read].max() - prior[~read])
    return scores


def prior_scores(signals: Features, readout: Readout = PLAIN) -> Tensor:
    """[units]: the score from what is known without the draft."""
    return _weighted(signals, unit_features(signals), readout.prior, torch.zeros(len(signals.ranges)))


def _scores_of_read(signals: Features, readout: Readout, heads: Tensor) -> Tensor:
    weights = readout.head_weights()
    score = torch.zeros(len(signals.ranges))
    if weights is not None:
        score = torch.einsum("alhu,alh->u", standardised_heads(heads), weights)
    return _weighted(signals, unit_features(signals, heads), readout.weights, score)


def _weighted(signals: Features, found: Mapping[str, Tensor], weights: Mapping[str, float], score: Tensor) -> Tensor:
    """The score with what features, the title and title links add; the latter two are in deviations of the score."""
    for name, values in found.items():
        if weights.get(name):
            score = score + weights[name] * values
    if signals.titles is not None:
        score = score + weights.get("title", 0.0) * _spread(score) * signals.titles
    if signals.links is not None:
        score = follow_links(score, signals.links, signals.documents, weights.get("links", 0.0), _spread(score))
    return score


def _spread(score: Tensor) -> float:
    """Standard deviation; 1 where all are equal."""
    spread = float(score.std()) if len(score) > 1 else 0.0
    return spread if spread > 1e-6 else 1.0


def question_features(signals: Features, heads: Tensor, scores: Tensor) -> Tensor:
    """float32 [QUESTION]: how the best unit of a question stands out.

    They are the logarithms of the attention to it and to its passage, the BM25 score of its passage, the log-odds of
    it among all by the softmax of the scores, and the logarithm of the number of units.
    """
    best = int(scores.argmax())
    pooled = pooled_attention(heads)
    words = 0.0 if signals.text is None else float(signals.text[best, TEXT.index("words_passage")])
    share = scores.float().softmax(0)[best].clamp(max=1 - 1e-4)
    found = [
        *(2 * (pooled[name][best] + _SMALLEST).log() for name in ("unit", "passage")),
        torch.tensor(words).log1p(),
        (share / (1 - share)).log(),
        torch.tensor(float(len(scores))).log(),
    ]
    assert len(found) == len(QUESTION)
    return torch.stack([torch.as_tensor(value, dtype=torch.float32) for value in found])


def probabilities(
    signals: Features, scores: Tensor, readout: Readout, heads: Tensor | None = None
) -> tuple[Tensor, float] | None:
    """How likely each unit is needed, [units] in reading order, and how likely any is; None without calibration."""
    if not readout.probability or not readout.answerable or not len(scores):
        return None
    question = question_features(signals, head_features(signals) if heads is None else heads, scores)
    best, answerable = (
        given["bias"] + sum(given.get(name, 0.0) * float(value) for name, value in zip(QUESTION, question, strict=True))
        for given in (readout.probability, readout.answerable)
    )
    below = readout.probability["slope"] * (scores - scores.max())
    return (best + below).sigmoid(), float(torch.tensor(answerable).sigmoid())


def only_units(signals: Features, units: Tensor) -> Features:
    """The features of some units alone, bool [units]; passages and documents keep their numbers."""
    per_unit = {name: getattr(signals, name) for name in ("ranges", "passages", "documents", *_PER_UNIT)}
    chosen: dict[str, Any] = {name: None if value is None else value[units] for name, value in per_unit.items()}
    if signals.links is not None:
        place = units.cumsum(0) - 1
        own = signals.links[units[signals.links[:, 0].long()]].clone()
        own[:, 0] = place[own[:, 0].long()].to(own.dtype)
        chosen["links"] = own
    return replace(signals, **chosen)
