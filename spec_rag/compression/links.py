"""From one document to another: a sentence that names another document's title, and what that is worth.

The second step of a two-step question often stands in a document that nothing but its title ties to the question. This
module knows words and scores; it does not know models.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

_WEIGHT, _SHARPNESS, _SHARE = 2.0, 1.5, 0.6


def title_links(
    titles: Sequence[str | None], unit_texts: Sequence[str], unit_documents: Sequence[int]
) -> Tensor | None:
    """How fully each unit names the title of another document.

    Words weigh log(documents / documents that hold them): a word that all share names none of them. What stands in
    brackets in a title is left out, and documents of one title do not name each other.

    Args:
        titles: one per document.
        unit_texts, unit_documents: text and document of each unit.

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
    with_word: dict[str, list[int]] = {}
    for u, words in enumerate(per_unit):
        for word in words:
            with_word.setdefault(word, []).append(u)
    links = torch.zeros(len(unit_texts), count)
    for d, title in enumerate(titles):
        words = _words(re.sub(r"\([^)]*\)", " ", title or ""))
        whole = sum(weight[word] for word in words if word in weight)
        if whole <= 0:
            continue
        shared: Counter[int] = Counter()
        for word in words:
            for u in with_word.get(word, ()):
                shared[u] += weight[word]  # type: ignore[assignment]
        for u, named in shared.items():
            if named / whole >= _SHARE and titles[unit_documents[u]] != title:
                links[u, d] = named / whole
    return links


def follow_links(scores: Tensor, links: Tensor, documents: Tensor) -> Tensor:
    """Raise the units of a document that a good unit of another names.

    Args:
        scores: [units], of about unit deviation.
        links: [units, documents], 0 to 1.
        documents: int64 [units].

    Returns:
        [units]: at most 2 more, for a document that the best unit names in full.
    """
    if not len(scores):
        return scores
    trust = (_SHARPNESS * (scores - scores.max())).exp()
    return scores + _WEIGHT * (links * trust[:, None]).amax(0)[documents]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
