"""Words of a text, as word matching sees them, and how many of a question's words each text shares.

This module does not know documents or models.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

# scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"
)


def words(text: str) -> list[str]:
    """The words of a text, case folded, in reading order.

    Scripts that put no spaces between words are cut into overlapping pairs of characters.
    """
    found: list[str] = []
    for run in _runs().findall(text.casefold()):
        if run.isascii():
            found.append(run)
            continue
        for i, part in enumerate(_UNSPACED.split(run)):
            if i % 2 and len(part) > 1:
                found += [part[j : j + 2] for j in range(len(part) - 1)]
            elif part:
                found.append(part)
    return found


@cache
def _runs() -> re.Pattern[str]:
    """Letters, digits and the marks that belong to them, which `\\w` leaves out: vowel signs of Thai, Hindi ..."""
    marks = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(rf"[\w{re.escape(marks)}]+")


def has_words(text: str) -> bool:
    """Whether it has a letter or digit: rules, bullets, emoji and punctuation have none."""
    return any(map(str.isalnum, text))


def is_unspaced(text: str) -> bool:
    """Whether it has characters of a script that puts no spaces between words."""
    return _UNSPACED.search(text) is not None


def word_overlap(question: str, texts: Sequence[str]) -> list[float]:
    """The BM25 score of each text for a question; 0 where question or texts have no words."""
    import bm25s

    per_text, asked = [words(text) for text in texts], words(question)
    if not any(per_text) or not asked:
        return [0.0] * len(texts)
    index = bm25s.BM25()
    index.index(per_text, show_progress=False)
    return [float(score) for score in index.get_scores(asked)]
