"""From one document to another: a sentence that names another document's title, and what that is worth.

The second step of a two-step question often stands in a document that nothing but its title ties to the question. A
title that the question itself names is no such news. This module knows words and scores; it does not know models.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spec_rag.text.words import words

_BRACKETED = re.compile(r"\([^)]*\)")
_SHARE = 0.4  # the least part of a title that must be named
_SMOOTHING = 0.5  # added to the number of documents when words are weighed
_SHARPNESS = 1.0  # how much less the link of a unit counts per deviation below the best unit


def title_links(
    titles: Sequence[str | None],
    unit_texts: Sequence[str],
    unit_documents: Sequence[int],
    question: str,
) -> Tensor | None:
    """How fully each unit names the title of another document, and how much of that the question did not say.

    Words weigh log((documents + smoothing) / documents that hold them): a word that all share names hardly any. What
    stands in brackets in a title is left out, and documents of one title do not name each other.

    Args:
        titles: one per document.
        unit_texts, unit_documents: text and document of each unit.
        question: what is asked.

    Returns:
        float64 [links, 3]: unit, document, and a share above 0 and up to 1; None where no document has a title.
    """
    count = len(titles)
    if count < 2 or not any(titles):
        return None
    per_unit = [set(words(text)) for text in unit_texts]
    per_document = [set(words(title or "")) for title in titles]
    for own, d in zip(per_unit, unit_documents, strict=True):
        per_document[d] |= own
    held = Counter(word for own in per_document for word in own)
    weight = {word: math.log((count + _SMOOTHING) / n) for word, n in held.items()}
    with_word: dict[str, list[int]] = {}
    for u, own in enumerate(per_unit):
        for word in own:
            with_word.setdefault(word, []).append(u)
    asked = set(words(question))
    found: list[tuple[int, int, float]] = []
    for d, title in enumerate(titles):
        name = sorted(set(words(_BRACKETED.sub(" ", title or ""))), key=lambda word: (-weight[word], word))
        whole = math.fsum(weight[word] for word in name)
        news = 1 - math.fsum(weight[word] for word in name if word in asked) / whole if whole > 0 else 0.0
        if news <= 0:
            continue
        for u in sorted({u for word in _telling(name, weight, _SHARE * whole) for u in with_word.get(word, ())}):
            named = math.fsum(weight[word] for word in name if word in per_unit[u]) / whole
            if named >= _SHARE and titles[unit_documents[u]] != title:
                found.append((u, d, min(named, 1.0) * news))
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 3)


def _telling(name: Sequence[str], weight: Mapping[str, float], least: float) -> Sequence[str]:
    """The first words of a title, heaviest first, of which any text must hold one to hold `least` of its weight.

    Words that stand everywhere need not be looked up, so that many documents cost no more than their links.
    """
    left = math.fsum(weight[word] for word in name)
    for i, word in enumerate(name):
        if left < least:
            return name[:i]
        left -= weight[word]
    return name


def follow_links(scores: Tensor, links: Tensor, documents: Tensor, weight: float, spread: float) -> Tensor:
    """Raise the units of a document that a good unit of another names.

    Args:
        scores: [units].
        links: [links, 3]: unit, document, share.
        documents: int64 [units].
        weight: what a document gains that the best unit names in full, in units of `spread`.
        spread: standard deviation of the scores.

    Returns:
        [units]: at most `weight * spread` more.
    """
    if not len(scores) or not len(links):
        return scores
    trust = (_SHARPNESS * (scores - scores.max()) / spread).exp()
    units, named = links[:, 0].long(), links[:, 1].long()
    raised = torch.zeros(1 + int(torch.maximum(named.max(), documents.max())), dtype=scores.dtype)
    raised.scatter_reduce_(0, named, links[:, 2].to(scores.dtype) * trust[units], "amax")
    return scores + weight * spread * raised[documents]
