"""Who is asked what, cheapest first: each source speaks only about passages that what is known leaves in doubt.

Retrieval scores, embeddings, words and titles come for nothing beside a draft that reads. What they put far behind is
not read, and the likelihood of the question is asked only of the passages that may still change what is kept. It
depends on nothing but its input. This module decides who is asked; it does not know how they answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spec_rag.compression.document_draft import Draft, layers_for
from spec_rag.compression.encoder import encoder_for
from spec_rag.compression.feature_sources import (
    cross_attention_features,
    joint_attention_features,
    query_likelihood_features,
)
from spec_rag.compression.features import CompressionRequest, Features
from spec_rag.compression.outside_scores import bm25_features, outside_signals
from spec_rag.compression.passages import Passage
from spec_rag.compression.reading_errors import reading_error_context
from spec_rag.compression.scoring import prior_scores, unit_scores
from spec_rag.results import PassageStatistics
from spec_rag.utils import cancellation

_READ_SHARE, _READ_AT_LEAST = 0.4, 4  # of the passages
_READ_PER_BUDGET = 1.5  # tokens that are read for each token that may be kept
_ASKED_FOR_LIKELIHOOD = 4  # passages at most
_TYPICALLY_ASKED = 2
_LIFT = 2.0  # deviations: a passage that is further behind the best one is not lifted past it by the likelihood


def gather_features(draft: Draft, inquiry: CompressionRequest) -> Features:
    """Gather scores from outside, then let the draft read what they leave in doubt, under its lock.

    Raises:
        ConfigError: an index was given for scoring="joint", which cannot use it.
        PromptTooLongError: scoring="joint", and the documents are beyond the draft's context.
        CancelledError: the inquiry was cancelled.
        OutOfMemoryError, NotFiniteError: the draft ran out of memory, or computed nan or inf.
    """
    known = outside_signals(inquiry)
    asked = list(range(len(inquiry.passages)))
    if inquiry.config.scoring != "joint" and should_prefilter(inquiry, known):
        known = bm25_features(inquiry, known)
        asked = select_candidates(known, tokens_wanted(inquiry))
    with draft.lock.hold(inquiry.cancelled) as acquired:
        if not acquired:
            cancellation.check(inquiry.cancelled)
        with reading_error_context(draft, len(inquiry.passages), inquiry.config, inquiry.index):
            return _read_signals(draft, inquiry, known, asked)


def _read_signals(draft: Draft, inquiry: CompressionRequest, known: Features, asked: Sequence[int]) -> Features:
    """With what the draft sees in the passages `asked`."""
    if inquiry.config.scoring == "joint":
        return joint_attention_features(draft, inquiry, known)
    competes = wants_likelihood(inquiry, known) and len(asked) > 1
    every = inquiry.config.cascade == "never" or len(asked) <= _ASKED_FOR_LIKELIHOOD
    deep = competes and inquiry.index is None and (every or _deep_at_once(draft, inquiry, len(asked)))
    reader = encoder_for(draft, inquiry.config, inquiry.backend)
    known, encoded = cross_attention_features(reader, inquiry, known, asked, deep)
    if competes:
        compared = asked if every else likelihood_candidates(known)
        if len(compared) > 1:
            known = query_likelihood_features(reader, inquiry, known, compared, encoded)
    return known


def should_prefilter(inquiry: CompressionRequest, known: Features) -> bool:
    """Whether what is known without the draft may leave passages unread."""
    if inquiry.config.cascade == "never" or len(inquiry.passages) <= _READ_AT_LEAST:
        return False
    return inquiry.config.cascade == "always" or known.retrieval is not None or known.similarity is not None


def wants_likelihood(inquiry: CompressionRequest, known: Features) -> bool:
    """Whether the likelihood takes part: by itself only where nothing else tells how near a document is."""
    if inquiry.config.likelihood != "auto":
        return inquiry.config.likelihood
    return known.retrieval is None and known.similarity is None


def tokens_wanted(inquiry: CompressionRequest) -> int:
    """The draft's tokens that should be read, so that a budget is filled with what was read."""
    whole = sum(len(p.ids) for p in inquiry.passages)
    return min(whole, math.ceil(_READ_PER_BUDGET * inquiry.config.budget_tokens(whole)))


def select_candidates(known: Features, tokens: int) -> list[int]:
    """The passages that the draft reads, ascending: the most promising four tenths, at least four, and so many tokens.

    A passage is as promising as its best unit.
    """
    lengths = (known.passage_ranges[:, 1] - known.passage_ranges[:, 0]).tolist()
    least = max(_READ_AT_LEAST, math.ceil(_READ_SHARE * len(lengths)))
    asked: list[int] = []
    asked_tokens = 0
    for i in _per_passage(prior_scores(known), known).argsort(descending=True, stable=True).tolist():
        if len(asked) >= least and asked_tokens >= tokens:
            break
        asked.append(i)
        asked_tokens += lengths[i]
    return sorted(asked)


def likelihood_candidates(known: Features) -> list[int]:
    """The passages whose order the likelihood may still change, ascending: of those read, the best and what is near it.

    A passage is as good as its best unit by all that is known.
    """
    best = _per_passage(unit_scores(known), known)
    if known.read is not None:
        best = best.masked_fill(~known.read, -torch.inf)
    near = int((best >= best.max() - _LIFT).sum())
    return sorted(best.argsort(descending=True, stable=True)[: min(near, _ASKED_FOR_LIKELIHOOD)].tolist())


def looks(passages: Sequence[Passage], known: Features) -> list[PassageStatistics]:
    """What was looked at of each passage."""
    read = [True] * len(passages) if known.read is None else known.read.tolist()
    asked = [False] * len(passages)
    if known.log_likelihood is not None:
        asked = (~known.log_likelihood.isnan().any(1)).tolist()
    return [
        PassageStatistics(p.document, p.start, p.end, len(p.ids), was_read, was_asked)
        for p, was_read, was_asked in zip(passages, read, asked, strict=True)
    ]


def _per_passage(scores: Tensor, known: Features) -> Tensor:
    """[passages]: the best score of each one's units; least for a passage without units."""
    best = torch.full((len(known.passage_ranges),), -torch.inf, dtype=scores.dtype)
    return best.scatter_reduce(0, known.passages, scores, "amax")


def _deep_at_once(draft: Draft, inquiry: CompressionRequest, passages: int) -> bool:
    """Whether reading all passages deep costs no more than reading those that compete once more."""
    layers = layers_for(draft, inquiry.config)
    middle, deepest = layers.listened[1], layers.seen[1]
    return passages * (deepest - middle) <= _TYPICALLY_ASKED * deepest
