"""Answer matching: whether an accepted answer occurs in a text."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from spec_rag.text.words import is_unspaced

_DASHES = re.compile("[‐‑‒–−]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower-case a text; remove punctuation, articles and repeated spaces."""
    bare = _DASHES.sub("-", text.lower()).replace("’", "'").translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers occurs in the text as whole words (best-subspan exact match).

    Args:
        text: kept text, or the answer of a model.
        answers: accepted answers; a final "s" is ignored. In scripts without spaces any substring matches.
    """
    normalised_text = normalised(text)
    return any(_holds(normalised_text, answer) for answer in map(normalised, answers) if answer)


def _holds(text: str, answer: str) -> bool:
    if is_unspaced(answer):
        return answer in text
    return re.search(rf"(?<!\w){re.escape(answer)}s?(?!\w)", text) is not None
