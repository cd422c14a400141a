"""Which units repeat another, so that each sentence is kept, and paid for, once.

This module knows texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from spec_rag.text.units import word_spans

_MIN_REPEATED_WORDS = 4  # shorter texts, such as a closing bracket, may well stand twice


def originals(texts: Sequence[str], at_edge: Sequence[bool]) -> list[int]:
    """For each unit the one that stands for it: the first of the same text, or the whole of what it is a piece of.

    Case and white space do not matter, and texts of less than four words stand for themselves.

    Args:
        texts: of the units of all documents, in reading order.
        at_edge: whether a unit is the first or last of its document, where a splitter may have cut a sentence: such a
            piece is stood for by a unit that contains it.
    """
    words = [_folded_words(text) for text in texts]
    first: dict[tuple[str, ...], int] = {}
    original = [i if len(own) < _MIN_REPEATED_WORDS else first.setdefault(own, i) for i, own in enumerate(words)]
    pieces = [i for i, edge in enumerate(at_edge) if edge and original[i] == i and len(words[i]) >= _MIN_REPEATED_WORDS]
    if not pieces:
        return original
    wanted = {words[i][:_MIN_REPEATED_WORDS] for i in pieces}
    holders: dict[tuple[str, ...], list[int]] = {}
    for j, own in enumerate(words):
        if original[j] == j:
            for k in range(len(own) - _MIN_REPEATED_WORDS + 1):
                if (shingle := own[k : k + _MIN_REPEATED_WORDS]) in wanted:
                    holders.setdefault(shingle, []).append(j)
    joined: dict[int, str] = {}
    for i in sorted(pieces, key=lambda i: len(words[i]), reverse=True):  # a holder may be a piece of a longer one
        for j in holders[words[i][:_MIN_REPEATED_WORDS]]:
            whole = joined.setdefault(j, f" {' '.join(words[j])} ")
            if len(words[j]) > len(words[i]) and f" {' '.join(words[i])} " in whole:
                original[i] = original[j]
                break
    return [original[j] for j in original]


def _folded_words(text: str) -> tuple[str, ...]:
    folded = text.casefold()
    return tuple(folded[a:b] for a, b in word_spans(folded))
