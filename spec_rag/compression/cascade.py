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

from spec_rag import cancellation
from spec_rag.compression.draft import Draft, layers_for
from spec_rag.compression.draft_reader import reader_for
from spec_rag.compression.faults import explained_reading
from spec_rag.compression.looking import look_for_likelihood, look_jointly, look_side_by_side
from spec_rag.compression.outside_scores import look_at_words, outside_signals
from spec_rag.compression.passages import Passage
from spec_rag.compression.scoring import prior_scores, unit_scores
from spec_rag.compression.signals import Inquiry, Signals
from spec_rag.results import PassageLook

_READ_SHARE, _READ_AT_LEAST = 0.4, 4  # of the passages
_READ_PER_BUDGET = 1.5  # tokens that are read for each token that may be kept
_ASKED_FOR_LIKELIHOOD = 4  # passages at most
_TYPICALLY_ASKED = 2
_LIFT = 2.0  # deviations: a passage that is further behind the best one is not lifted past it by the likelihood


def gather_signals(draft: Draft, inquiry: Inquiry) -> Signals:
    """Gather scores from outside, then let the draft read what they leave in doubt, under its lock.

    Raises:
        ConfigError: an index was given for scoring="joint", which cannot use it.
        PromptTooLongError: scoring="joint", and the documents are beyond the draft's context.
        CancelledError: the inquiry was cancelled.
        OutOfMemoryError, NotFiniteError: the draft ran out of memory, or computed nan or inf.
    """
    known = outside_signals(inquiry)
    asked = list(range(len(inquiry.passages)))
    if inquiry.config.scoring != "joint" and chooses(inquiry, known):
        known = look_at_words(inquiry, known)
        asked = in_doubt(known, tokens_wanted(inquiry))
    with draft.lock.hold(inquiry.cancelled) as acquired:
        if not acquired:
            cancellation.check(inquiry.cancelled)
        with explained_reading(draft, len(inquiry.passages), inquiry.config, inquiry.index):
            return _read_signals(draft, inquiry, known, asked)


def _read_signals(draft: Draft, inquiry: Inquiry, known: Signals, asked: Sequence[int]) -> Signals:
    """With what the draft sees in the passages `asked`."""
    if inquiry.config.scoring == "joint":
        return look_jointly(draft, inquiry, known)
    competes = wants_likelihood(inquiry, known) and len(asked) > 1
    every = inquiry.config.cascade == "never" or len(asked) <= _ASKED_FOR_LIKELIHOOD
    deep = competes and inquiry.index is None and (every or _deep_at_once(draft, inquiry, len(asked)))
    reader = reader_for(draft, inquiry.config, inquiry.backend)
    known, encoded = look_side_by_side(reader, inquiry, known, asked, deep)
    if competes:
        compared = asked if every else competing(known)
        if len(compared) > 1:
            known = look_for_likelihood(reader, inquiry, known, compared, encoded)
    return known


def chooses(inquiry: Inquiry, known: Signals) -> bool:
    """Whether what is known without the draft may leave passages unread."""
    if inquiry.config.cascade == "never" or len(inquiry.passages) <= _READ_AT_LEAST:
        return False
    return inquiry.config.cascade == "always" or known.retrieval is not None or known.similarity is not None


def wants_likelihood(inquiry: Inquiry, known: Signals) -> bool:
    """Whether the likelihood takes part: by itself only where nothing else tells how near a document is."""
    if inquiry.config.likelihood != "auto":
        return inquiry.config.likelihood
    return known.retrieval is None and known.similarity is None


def tokens_wanted(inquiry: Inquiry) -> int:
    """The draft's tokens that should be read, so that a budget is filled with what was read."""
    whole = sum(len(p.ids) for p in inquiry.passages)
    return min(whole, math.ceil(_READ_PER_BUDGET * inquiry.config.budget_tokens(whole)))


def in_doubt(known: Signals, tokens: int) -> list[int]:
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


def competing(known: Signals) -> list[int]:
    """The passages whose order the likelihood may still change, ascending: of those read, the best and what is near it.

    A passage is as good as its best unit by all that is known.
    """
    best = _per_passage(unit_scores(known), known)
    if known.read is not None:
        best = best.masked_fill(~known.read, -torch.inf)
    near = int((best >= best.max() - _LIFT).sum())
    return sorted(best.argsort(descending=True, stable=True)[: min(near, _ASKED_FOR_LIKELIHOOD)].tolist())


def looks(passages: Sequence[Passage], known: Signals) -> list[PassageLook]:
    """What was looked at of each passage."""
    read = [True] * len(passages) if known.read is None else known.read.tolist()
    asked = [False] * len(passages)
    if known.log_likelihood is not None:
        asked = (~known.log_likelihood.isnan().any(1)).tolist()
    return [
        PassageLook(p.document, p.start, p.end, len(p.ids), was_read, was_asked)
        for p, was_read, was_asked in zip(passages, read, asked, strict=True)
    ]


def _per_passage(scores: Tensor, known: Signals) -> Tensor:
    """[passages]: the best score of each one's units; least for a passage without units."""
    best = torch.full((len(known.passage_ranges),), -torch.inf, dtype=scores.dtype)
    return best.scatter_reduce(0, known.passages, scores, "amax")


def _deep_at_once(draft: Draft, inquiry: Inquiry, passages: int) -> bool:
    """Whether reading all passages deep costs no more than reading those that compete once more."""
    layers = layers_for(draft, inquiry.config)
    middle, deepest = layers.listened[1], layers.seen[1]
    return passages * (deepest - middle) <= _TYPICALLY_ASKED * deepest
