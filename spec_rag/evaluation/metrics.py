"""What counts as right: does an accepted answer stand in a text, and how near is a text to what people wrote?

One definition for kept text and for written answers. All shares are 0 to 1. This module knows strings alone.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from spec_rag.text.words import is_unspaced

_DASHES = re.compile("[‐‑‒–−]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower-cased, without punctuation, articles and doubled spaces."""
    bare = _DASHES.sub("-", text.lower()).replace("’", "'").translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in the text, as whole words and numbers (best-subspan exact match).

    Args:
        text: what was kept, or what was written.
        answers: any of them will do; an s at the end, as of a possessive, does not matter. In scripts without spaces
            between words, any place will do.
    """
    inside = normalised(text)
    return any(_holds(inside, answer) for answer in map(normalised, answers) if answer)


def _holds(inside: str, answer: str) -> bool:
    if is_unspaced(answer):
        return answer in inside
    return re.search(rf"(?<!\w){re.escape(answer)}s?(?!\w)", inside) is not None


def f1(text: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the words, after normalisation (SQuAD; Rajpurkar et al. 2016)."""
    written, wanted = normalised(text).split(), normalised(answer).split()
    common = sum((Counter(written) & Counter(wanted)).values())
    return 2 * common / (len(written) + len(wanted)) if common else 0.0
