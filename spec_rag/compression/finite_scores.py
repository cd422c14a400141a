"""Scores from outside (retriever, embedder, scorer) as finite numbers that do not depend on their scale.

A score that is not finite says nothing about its text. It gets a neutral value, so that the others keep theirs, and one
warning names the document and the value. This module does not know where scores come from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from spec_rag.text.documents import Document

logger = logging.getLogger(__name__)

_EQUAL = 1e-7  # a spread below this share of the largest score is rounding


def finite_scores(
    scores: Tensor,
    *,
    source: str,
    name: Callable[[int], str],
    given: Sequence[Any] | None = None,
    below_lowest: float = 0.0,
) -> Tensor | None:
    """Replace the scores that are not finite, and log one warning about them.

    Args:
        scores: [n], any float type.
        source: what the scores are, for the warning, such as "scorer=CrossEncoder".
        name: the document of a score, by its index, for the warning.
        given: the values as they came, for the warning; None shows `scores`.
        below_lowest: how far -inf is put below the lowest finite score.

    Returns:
        float64 [n]: nan and inf as the median of the finite scores, -inf as the lowest of them. None where no score is
        finite: then there is nothing to go by.
    """
    scores = scores.detach().to("cpu", torch.float64)
    is_finite = scores.isfinite()
    if bool(is_finite.all()):
        return scores
    bad = (~is_finite).nonzero()[:, 0].tolist()
    value = given[bad[0]] if given is not None else float(scores[bad[0]])
    others = {name(i) for i in bad} - {name(bad[0])}
    more = f" ({len(others)} more documents have such scores)" if others else ""
    found = scores[is_finite]
    effect = "it is ranked by the other scores" if len(found) else "none is finite, so all are left out"
    logger.warning(
        "%s: the score of %s is %.80r, which is not a finite number: %s%s.", source, name(bad[0]), value, effect, more
    )
    if not len(found):
        return None
    filled = torch.where(is_finite, scores, found.median())
    return torch.where(scores == -math.inf, found.min() - below_lowest, filled)


def scaled(scores: Tensor) -> Tensor | None:
    """Finite scores of any scale, moved and scaled into [-1, 1].

    Args:
        scores: float64 [n], finite; up to the largest float64.

    Returns:
        float32 [n] with mean 0 and a largest absolute value of 1; None where all are equal up to rounding.
    """
    largest = scores.abs().max() if len(scores) else torch.tensor(0.0)
    if not bool(largest > 0):
        return None
    scores = scores / largest
    scores = scores - scores.mean()
    spread = scores.abs().max()
    return (scores / spread).float() if bool(spread > _EQUAL) else None


def document_name(documents: Sequence[Document], index: int) -> str:
    """The document as a warning names it: its index among those given, and its title."""
    title = documents[index].title
    return f"documents[{index}] ({title!r:.60})" if title else f"documents[{index}]"
