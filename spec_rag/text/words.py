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

_MARKS = re.compile(r"^\s*(?:[-*+•]\s+|#+\s+)?\(?\d{1,3}[.)](?=\s|$)|\[\d{1,3}(?:\s*,\s*\d{1,3})*\]", re.MULTILINE)
_NUMBER = re.compile(r"(?<![^\W_])(?:\d{1,3}(?:[ \u00a0\u202f]\d{3})+|\d+(?:[.,:'’]\d+)*)(?![^\W_])")
_GROUPS = re.compile(r"\d{1,3}(?:[.,'’\u00a0\u202f ]\d{3})+")
_GROUPED = re.compile(r"\D")
_TITLE_NAMES = 0.6  # F1 up to which a title may share words with a question without stating it


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


def telling_words(text: str, ignored: frozenset[str] = frozenset()) -> list[str]:
    """The words of a text that say something about its subject, case folded.

    The ignored words, such as function words, the numbers of list items ("1.", "2)") and of citations ("[3]") are left
    out. A number is one word, without the marks that group its digits: "42,500" and "42 500" are "42500".
    """
    found: list[str] = []
    text = _MARKS.sub(" ", text)
    for number in _NUMBER.findall(text):
        found.append(_GROUPED.sub("", number) if _GROUPS.fullmatch(number) else number)
    return found + [word for word in words(_NUMBER.sub(" ", text)) if word not in ignored]


def has_words(text: str) -> bool:
    """Whether it has a letter or digit: rules, bullets, emoji and punctuation have none."""
    return any(map(str.isalnum, text))


def is_unspaced(text: str) -> bool:
    """Whether it has characters of a script that puts no spaces between words."""
    return _UNSPACED.search(text) is not None


def title_match(question: str, title: str | None) -> float:
    """How far a title states the question, apart from the text below it.

    Both are compared as sets of words, each weighing its length, so that "how", "do" and "I" weigh little: F1 of the
    shared weight. A title that only names something in the question does not match.

    Returns:
        0 to 1: 1 for the same words, 0 up to an F1 of 0.6 or without a title. Of a question of several lines, such as
        the last turns of a chat, the last line counts as well.
    """
    named = set(words(title or ""))
    lines = [question, *question.splitlines()[-1:]]
    best = max((_shared_weight(set(words(line)), named) for line in lines), default=0.0)
    return max(0.0, (best - _TITLE_NAMES) / (1 - _TITLE_NAMES))


def _shared_weight(asked: set[str], named: set[str]) -> float:
    """F1 of two sets of words, each weighing its length; 0 where one is empty."""
    both = sum(map(len, asked & named))
    return 2 * both / (sum(map(len, asked)) + sum(map(len, named))) if both else 0.0


def word_overlap(question: str, texts: Sequence[str]) -> list[float]:
    """The BM25 score of each text for a question; 0 where question or texts have no words."""
    return WordIndex(texts).scores(question)


class WordIndex:
    """The words of some texts, for any number of questions.

    Args:
        texts: what is ranked.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        per_text = [words(text) for text in texts]
        self._count = len(texts)
        self._index = bm25s.BM25() if any(per_text) else None
        if self._index is not None:
            self._index.index(per_text, show_progress=False)

    def scores(self, question: str) -> list[float]:
        """The BM25 score of each text for a question; 0 where question or texts have no words."""
        asked = words(question)
        if self._index is None or not asked:
            return [0.0] * self._count
        return [float(score) for score in self._index.get_scores(asked)]
