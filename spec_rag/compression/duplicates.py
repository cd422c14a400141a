"""Which units repeat another, so that the same text is kept once, in the place that matches the question best."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from spec_rag.text.units import word_spans

_MIN_REPEATED_WORDS = 4  # shorter texts, such as a closing bracket, are not compared


def originals(
    texts: Sequence[str],
    at_edge: Sequence[bool],
    places: Sequence[frozenset[str]] = (),
    scores: Sequence[float] = (),
    contexts: Sequence[Hashable] = (),
) -> list[int]:
    """For each unit the one that stands for it: the best of the same text, or the whole sentence that it is a part of.

    Texts are compared without case and white space; those of less than four words stand for themselves.

    Args:
        texts: of the units of all documents, in reading order.
        at_edge: whether a unit is the first or last of its document, where a splitter may have cut a sentence: such a
            part is represented by a unit that contains it.
        places: words of the question in the title and headings of each unit. Of equal units, the one with most of them
            stands for the others; one with words that it lacks stands for itself as well.
        scores: of the units; decide where places do not. The first unit wins a tie.
        contexts: what must be kept with each unit; units of different contexts are never equal.
    """
    folded = [_folded_words(text) for text in texts]
    places = places or [frozenset()] * len(texts)
    scores = scores or [0.0] * len(texts)
    groups: dict[Hashable, list[int]] = {}
    for i, own in enumerate(folded):
        if len(own) >= _MIN_REPEATED_WORDS:
            groups.setdefault((own, contexts[i] if contexts else None), []).append(i)
    original = list(range(len(texts)))
    for group in groups.values():
        seen: set[str] = set()
        ranked = sorted(group, key=lambda i: (-len(places[i]), -scores[i], i))
        for i in ranked:
            if i != ranked[0] and places[i] <= seen:
                original[i] = ranked[0]
            seen |= places[i]
    return _with_parts(folded, at_edge, original)


def _with_parts(folded: Sequence[tuple[str, ...]], at_edge: Sequence[bool], original: list[int]) -> list[int]:
    """Let units that contain a part of a sentence at the edge of a document stand for it."""
    parts = [i for i, edge in enumerate(at_edge) if edge and original[i] == i and len(folded[i]) >= _MIN_REPEATED_WORDS]
    if not parts:
        return original
    wanted = {folded[i][:_MIN_REPEATED_WORDS] for i in parts}
    holders: dict[tuple[str, ...], list[int]] = {}
    for j, own in enumerate(folded):
        if original[j] == j:
            for k in range(len(own) - _MIN_REPEATED_WORDS + 1):
                if (shingle := own[k : k + _MIN_REPEATED_WORDS]) in wanted:
                    holders.setdefault(shingle, []).append(j)
    joined: dict[int, str] = {}
    for i in sorted(parts, key=lambda i: len(folded[i]), reverse=True):  # a holder may be a part of a longer one
        for j in holders[folded[i][:_MIN_REPEATED_WORDS]]:
            whole = joined.setdefault(j, f" {' '.join(folded[j])} ")
            if len(folded[j]) > len(folded[i]) and f" {' '.join(folded[i])} " in whole:
                original[i] = original[j]
                break
    return [original[j] for j in original]


def _folded_words(text: str) -> tuple[str, ...]:
    folded = text.casefold()
    return tuple(folded[a:b] for a, b in word_spans(folded))
