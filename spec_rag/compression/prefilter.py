"""Which passages the draft reads.

What retrieval scores, embeddings, words and titles rank far behind is not read. This module does not know how passages
are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spec_rag.compression.document_draft import Draft, readout_for
from spec_rag.compression.encoder import encoder_for
from spec_rag.compression.feature_sources import cross_attention_features, joint_attention_features
from spec_rag.compression.features import CompressionRequest, Features
from spec_rag.compression.outside_scores import outside_signals
from spec_rag.compression.passages import Passage
from spec_rag.compression.reading_errors import reading_error_context
from spec_rag.compression.readout import PLAIN, Readout
from spec_rag.compression.scoring import prior_scores
from spec_rag.results import PassageStatistics
from spec_rag.utils import cancellation

_READ_SHARE, _READ_AT_LEAST = 0.4, 4  # of the passages
_READ_PER_BUDGET = 1.5  # tokens that are read for each token that may be kept


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
        asked = select_candidates(known, tokens_wanted(inquiry), readout_for(draft, inquiry.config))
    with draft.lock.hold(inquiry.cancelled) as acquired:
        if not acquired:
            cancellation.check(inquiry.cancelled)
        with reading_error_context(draft, len(inquiry.passages), inquiry.config, inquiry.index):
            if inquiry.config.scoring == "joint":
                return joint_attention_features(draft, inquiry, known)
            reader = encoder_for(draft, inquiry.config, inquiry.backend)
            return cross_attention_features(reader, inquiry, known, asked)


def should_prefilter(inquiry: CompressionRequest, known: Features) -> bool:
    """Whether what is known without the draft may leave passages unread."""
    if inquiry.config.cascade == "never" or len(inquiry.passages) <= _READ_AT_LEAST:
        return False
    return inquiry.config.cascade == "always" or known.retrieval is not None or known.similarity is not None


def tokens_wanted(inquiry: CompressionRequest) -> int:
    """The draft's tokens that should be read, so that a budget is filled with what was read."""
    whole = sum(len(p.ids) for p in inquiry.passages)
    return min(whole, math.ceil(_READ_PER_BUDGET * inquiry.config.budget_tokens(whole)))


def select_candidates(known: Features, tokens: int, readout: Readout = PLAIN) -> list[int]:
    """The passages that the draft reads, ascending: the most promising four tenths, at least four, and so many tokens.

    A passage is as promising as its best unit.
    """
    lengths = (known.passage_ranges[:, 1] - known.passage_ranges[:, 0]).tolist()
    least = max(_READ_AT_LEAST, math.ceil(_READ_SHARE * len(lengths)))
    asked: list[int] = []
    asked_tokens = 0
    for i in _per_passage(prior_scores(known, readout), known).argsort(descending=True, stable=True).tolist():
        if len(asked) >= least and asked_tokens >= tokens:
            break
        asked.append(i)
        asked_tokens += lengths[i]
    return sorted(asked)


def looks(passages: Sequence[Passage], known: Features) -> list[PassageStatistics]:
    """What was looked at of each passage."""
    read = [True] * len(passages) if known.read is None else known.read.tolist()
    return [
        PassageStatistics(p.document, p.start, p.end, len(p.ids), was_read)
        for p, was_read in zip(passages, read, strict=True)
    ]


def _per_passage(scores: Tensor, known: Features) -> Tensor:
    """[passages]: the best score of each one's units; least for a passage without units."""
    best = torch.full((len(known.passage_ranges),), -torch.inf, dtype=scores.dtype)
    return best.scatter_reduce(0, known.passages, scores, "amax")
