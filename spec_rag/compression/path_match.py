"""Words of the question in what a unit is shown with: headings, keys, column names, speakers and signatures.

The draft scores the text of a unit. Records and table rows of one document differ by a name and share everything else,
so their scores also need the words of their paths, and a record that the question does not name must not answer for
one that it names.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spec_rag.text.documents import Document
from spec_rag.text.languages import function_words
from spec_rag.text.structure.outline import Structure
from spec_rag.text.words import words

PATH_WEIGHT = 3.0  # of a unit whose path and text hold all words of the question, in standard deviations of the scores
_LEXICAL_KINDS = frozenset(("row", "field", "code"))
_RECORD_KINDS = frozenset(("row", "field"))
_UNNAMED = 0.4  # taken from the bonus of sections and turns that the question does not name
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_")
_MAX_NAME_SETS = 500  # of one document; beyond it no record is excluded

Words = frozenset[str]


@dataclass(frozen=True)
class PathMatch:
    """How the places of units match a question; units of all documents are numbered through.

    Attributes:
        bonus: float32 [units], at most 1: the share of the question's words that structure adds.
        places: per unit, the words of the question in its title and in what it needs.
        excluded: units of records whose siblings the question names.
    """

    bonus: Tensor
    places: Sequence[Words]
    excluded: frozenset[int]

    def added_to(self, scores: Tensor) -> Tensor:
        """The scores with the weighted bonus."""
        if not bool(self.bonus.any()):
            return scores
        deviation = scores.std() if len(scores) > 1 else scores.new_tensor(1.0)
        return scores + PATH_WEIGHT * max(float(deviation), 1e-3) * self.bonus.to(scores)


def match_paths(question: str, documents: Sequence[Document], structures: Sequence[Structure]) -> PathMatch:
    """Match the words of a question, without function words, with the paths of all units."""
    asked = [*dict.fromkeys(_terms(question))]
    ignored = function_words(question)
    matcher = _Matcher([word for word in asked if word not in ignored] or asked)
    own: list[Words] = []
    paths: list[Words] = []
    places: list[Words] = []
    unnamed: set[int] = set()
    is_lexical = any(_LEXICAL_KINDS.intersection(structure.kinds) for structure in structures)
    for document, structure in zip(documents, structures, strict=True):
        title = matcher.found(document.title or "")
        texts = [document.text[start:end] for start, end in structure.spans]
        found = (
            [matcher.found(text) for text in texts] if is_lexical or not structure.is_plain else [Words()] * len(texts)
        )
        first = len(own)
        own += found
        for unit, kind in enumerate(structure.kinds):
            path = (
                Words().union(*(found[other] for other in structure.closure(unit)))
                if structure.needs[unit]
                else Words()
            )
            paths.append(path | title if kind in _LEXICAL_KINDS else path)
            places.append(path | title)
        unnamed |= {first + unit for unit in unnamed_units(question, structure)}
    kinds = [kind for structure in structures for kind in structure.kinds]
    excluded = frozenset(unit for unit in unnamed if kinds[unit] in _RECORD_KINDS)
    bonus = _bonus(own, paths, is_lexical)
    bonus[sorted(unnamed - excluded)] -= _UNNAMED
    return PathMatch(bonus, places, excluded)


def _bonus(own: Sequence[Words], paths: Sequence[Words], is_lexical: bool) -> Tensor:
    """[units]: share of the question's words, by inverse unit frequency; of prose alone only what paths add."""
    frequency = Counter(word for found in own for word in found)
    weight = {word: math.log(1 + len(own) / count) for word, count in frequency.items()}
    total = math.fsum(weight.values())
    if not total:
        return torch.zeros(len(own))

    def share(found: Iterable[str]) -> float:
        return math.fsum(weight.get(word, 0.0) for word in found) / total

    return torch.tensor(
        [share(o | p) if is_lexical else share(o | p) - share(o) for o, p in zip(own, paths, strict=True)]
    )


def unnamed_units(question: str, structure: Structure) -> set[int]:
    """Units of records, sections and turns that the question does not name, although it names others.

    A record is named if all words of one of its names are in the question, without function words and words that all
    siblings share. Its chain is the named words of itself and its parents; units whose chain is a proper part of
    another chain are returned.
    """
    if not structure.records:
        return set()
    ignored = function_words(question)
    asked = _stems(question) - ignored
    siblings: dict[int, list[int]] = {}
    for index, record in enumerate(structure.records):
        siblings.setdefault(record.parent, []).append(index)
    named: list[Words] = [Words()] * len(structure.records)
    for group in siblings.values():
        names = {index: [_stems(name) - ignored for name in structure.records[index].names] for index in group}
        with_names = [own for own in names.values() if own]
        shared = Words.intersection(*(Words().union(*own) for own in with_names)) if len(with_names) > 1 else Words()
        for index, own in names.items():
            named[index] = Words().union(*(name for one in own if (name := one - shared) and name <= asked))
    chains = list(named)
    for index, record in enumerate(structure.records):  # a parent comes before its children
        if record.parent >= 0:
            chains[index] |= chains[record.parent]
    distinct = {chain for chain in chains if chain}
    if not distinct or len(distinct) > _MAX_NAME_SETS:
        return set()
    beaten = {chain for chain in {*distinct, Words()} if any(chain < other for other in distinct)}
    return {
        unit
        for unit, record in enumerate(structure.record_of)
        if record >= 0 and structure.records[record].names and chains[record] in beaten
    }


class _Matcher:
    """Finds the words of a question in texts: equal stems, and abbreviations such as `mem` for memory."""

    def __init__(self, asked: Sequence[str]) -> None:
        self._asked = asked
        self._known: dict[str, Words] = {}

    def found(self, text: str) -> Words:
        """The words of the question that a text has."""
        return Words().union(*(self._matches(term) for term in _terms(text)))

    def _matches(self, term: str) -> Words:
        known = self._known.get(term)
        if known is None:
            known = self._known[term] = Words(word for word in self._asked if _same(word, term))
        return known


def _same(one: str, other: str) -> bool:
    if _stem(one) == _stem(other):
        return True
    short, long = sorted((one, other), key=len)
    return len(short) >= 3 and 2 * len(short) >= len(long) and long.startswith(short) and short.isalpha()


def _stems(text: str) -> Words:
    return Words(map(_stem, _terms(text)))


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _terms(text: str) -> list[str]:
    """The words of a text; parts of snake_case and camelCase are words."""
    return words(_CAMEL.sub(" ", text))
