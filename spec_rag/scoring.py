"""From what the draft saw to one score per unit: small pure functions behind one seam.

Each part takes the `Evidence` of one question and returns a score per unit; `unit_scores` standardises the parts and
adds them with their weights. A new idea is a new function and a line in `PARTS`. This module does not know models,
documents or budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_FLOOR = 1e-4  # attention below it counts as none when two questions are compared


@dataclass(frozen=True)
class Evidence:
    """What is known about the units of all documents, for one question.

    Attributes:
        ranges: int64 [units, 2], first and last-but-one token of each unit among all passages' tokens.
        passages: int64 [units], the passage each unit belongs to.
        passage_ranges: int64 [passages, 2], their tokens.
        attention: [layers, heads, tokens], the most that the question attends to each token; or [1, 1, tokens].
        neutral: the same, averaged over neutral questions, or None.
        log_likelihood: [passages + 1, question tokens], log p of the question given each passage, the last row
            without any; or None.
        lexical: [units], lexical match of unit and question, or None.
        similarity: [units], embedding similarity of unit and question, or None.
        retrieval: [units], the retriever's score of the unit's document, or None.
        mentions: [units, passages], how far (0 to 1) a unit names the title of another document's passage, or None.
    """

    ranges: Tensor
    passages: Tensor
    passage_ranges: Tensor
    attention: Tensor
    neutral: Tensor | None = None
    log_likelihood: Tensor | None = None
    lexical: Tensor | None = None
    similarity: Tensor | None = None
    retrieval: Tensor | None = None
    mentions: Tensor | None = None


def contrast(attention: Tensor, neutral: Tensor | None) -> Tensor:
    """What the question looks at more than any question would.

    Args:
        attention, neutral: [layers, heads, tokens], or no neutral question.

    Returns:
        [tokens]: mean over layers of the maximum over heads of a * max(0, log((a + 1e-4) / (b + 1e-4))).
    """
    if neutral is None:
        return attention.amax(1).mean(0)
    gain = ((attention + _FLOOR).log() - (neutral + _FLOOR).log()).clamp(min=0)
    return (attention * gain).amax(1).mean(0)


def best_tokens(scores: Tensor, ranges: Tensor, count: int) -> Tensor:
    """Mean of the `count` best tokens in each range.

    Args:
        scores: [tokens], non-negative.
        ranges: int64 [n, 2].

    Returns:
        [n]; 0 for an empty range.
    """
    width = max(1, int((ranges[:, 1] - ranges[:, 0]).max()))
    index = ranges[:, :1] + torch.arange(width, device=ranges.device)
    inside = index < ranges[:, 1:]
    values = scores[index.clamp(max=len(scores) - 1)].masked_fill(~inside, -1)
    best = values.topk(min(count, width), dim=-1).values
    return best.clamp(min=0).sum(-1) / (best >= 0).sum(-1).clamp(min=1)


def standardised(scores: Tensor) -> Tensor:
    """Zero mean and unit deviation; zeros where all are equal."""
    if len(scores) < 2:
        return torch.zeros_like(scores)
    return (scores - scores.mean()) / (scores.std() + 1e-6)


def attended(evidence: Evidence) -> Tensor:
    """The unit's three best tokens plus its passage's eight best, by contrast."""
    tokens = contrast(evidence.attention, evidence.neutral)
    own = best_tokens(tokens, evidence.ranges, 3)
    return own + best_tokens(tokens, evidence.passage_ranges, 8)[evidence.passages]


def foretold(evidence: Evidence) -> Tensor:
    """How much better the unit's passage foretells the question's words than passages do on average."""
    assert evidence.log_likelihood is not None
    passages = evidence.log_likelihood[:-1]
    return (passages - passages.mean(0)).clamp(min=0).sum(1)[evidence.passages]


def _given(name: str) -> Callable[[Evidence], Tensor]:
    def part(evidence: Evidence) -> Tensor:
        value = getattr(evidence, name)
        assert value is not None
        return value  # type: ignore[no-any-return]

    return part


PARTS: Mapping[str, Callable[[Evidence], Tensor]] = {
    "attention": attended,
    "likelihood": foretold,
    "lexical": _given("lexical"),
    "similarity": _given("similarity"),
    "retrieval": _given("retrieval"),
}
WEIGHTS: Mapping[str, float] = {
    "attention": 1.0,
    "likelihood": 0.5,
    "lexical": 0.5,
    "similarity": 1.0,
    "retrieval": 0.25,
}


def unit_scores(evidence: Evidence, weights: Mapping[str, float] = WEIGHTS) -> Tensor:
    """[units]: the weighted sum of the standardised parts that the evidence has."""
    present = {
        "attention": evidence.attention,
        "likelihood": evidence.log_likelihood,
        "lexical": evidence.lexical,
        "similarity": evidence.similarity,
        "retrieval": evidence.retrieval,
    }
    total = torch.zeros(len(evidence.ranges))
    for name, part in PARTS.items():
        if present[name] is not None:
            total += weights[name] * standardised(part(evidence).float().cpu())
    return total if evidence.mentions is None else total + 2 * linked(total, evidence.mentions, evidence.passages)


def linked(scores: Tensor, mentions: Tensor, passages: Tensor) -> Tensor:
    """What a unit gains because a promising unit elsewhere names its document: the second step of two-step questions.

    Args:
        scores: [units].
        mentions: [units, passages], 0 to 1.
        passages: int64 [units], the passage of each unit.

    Returns:
        [units], 0 to 1: the highest standing of a unit that names the passage's title, times how far it names it.
    """
    standing = (1.5 * scores).softmax(0)
    standing = standing / standing.max().clamp(min=1e-9)
    return (standing[:, None] * mentions).amax(0)[passages]
