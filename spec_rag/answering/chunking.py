"""Chunks of documents and their retrieval by BM25."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from spec_rag.errors import ConfigError
from spec_rag.text.documents import Document
from spec_rag.text.languages import AUTO
from spec_rag.text.structure.outline import Structure
from spec_rag.text.structure.reader import read_structure
from spec_rag.text.units import Span, passage_spans
from spec_rag.text.words import WordIndex, title_match

DEFAULT_CHUNK_CHARS = 900
DEFAULT_TOP_K = 8

_PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:\n[^\S\n]*\S(?:.*\S)?)*")
_OPENING = frozenset(("heading", "question", "lead", "header", "rule", "key"))  # belongs to what follows
_TITLE_WEIGHT = 0.5  # BM25 of title and headings, relative to the text


@dataclass(frozen=True)
class Chunk(Document):
    """A piece of a document, whose `text` is exactly `document.text[start:end]`.

    Attributes:
        title: the document's title and the headings above it, outermost first, joined by " > ".
        start, end: its character range in the document it was cut from.
        section: the headings above it and in it, joined by " > ".
        body: its text without headings and questions.
    """

    start: int = 0
    end: int = 0
    section: str = ""
    body: str = ""


def split_chunks(document: Document, max_chars: int = DEFAULT_CHUNK_CHARS) -> list[Chunk]:
    """Split a document into chunks of whole paragraphs, at most `max_chars` long.

    A longer paragraph is split between sentences. A heading starts a chunk.

    Raises:
        ConfigError: `max_chars` is below 1.
    """
    if max_chars < 1:
        raise ConfigError(f"max_chars={max_chars}: a chunk needs at least one character.")
    structure = read_structure(document.text, AUTO)
    kinds = {end: kind for (_, end), kind in zip(structure.spans, structure.kinds, strict=True)}
    headings = {
        start + len(document.text[start:end]) - len(document.text[start:end].lstrip())
        for (start, end), kind in zip(structure.spans, structure.kinds, strict=True)
        if kind in ("heading", "question")
    }
    spans: list[Span] = []
    after_opening = False
    for start, end in _pieces(document.text, max_chars, structure):
        fits = bool(spans) and end - spans[-1][0] <= max_chars
        if after_opening or (fits and start not in headings):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
        after_opening = kinds.get(end) in _OPENING
    return _chunks(document, spans, structure)


def passage_chunks(document: Document, language: str = AUTO) -> list[Chunk]:
    """Split a document into the passages that the draft encodes, at most 2,000 characters long.

    They are found in an index that was filled with the whole document and the same language.

    Args:
        document: the document.
        language: language of its sentences, as in CompressionConfig.
    """
    structure = read_structure(document.text, language)
    return _chunks(document, passage_spans(document.text, structure.spans), structure)


def retrieve(question: str, chunks: Sequence[Chunk], top_k: int = DEFAULT_TOP_K) -> list[Chunk]:
    """The chunks with the highest BM25 scores, best first.

    Text and titles, with the headings above a chunk, are scored apart, and headings and questions in a chunk do not
    count as its text: a chunk that only repeats the question does not rank first. A title that states the question adds
    up to the best chunk's score. Chunks that share no word with the question are left out; if none shares any, the
    first ones are returned with a score of 0.

    Raises:
        ConfigError: the question is empty, or `top_k` is below 1.
    """
    return ChunkIndex(chunks).retrieve(question, top_k)


class ChunkIndex:
    """BM25 index of chunks for any number of questions.

    Args:
        chunks: the chunks to search.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = list(chunks)
        self._bodies = WordIndex([chunk.body or chunk.text for chunk in chunks])
        self._titles = WordIndex([f"{chunk.title or ''}\n{chunk.section}" for chunk in chunks])

    def retrieve(self, question: str, top_k: int = DEFAULT_TOP_K) -> list[Chunk]:
        """The best chunks for a question; see `retrieve`."""
        if not question.strip():
            raise ConfigError(f"question={question!r} is empty: give a question.")
        if top_k < 1:
            raise ConfigError(f"top_k={top_k}: retrieve at least one chunk.")
        if not self._chunks:
            return []
        both = zip(self._bodies.scores(question), self._titles.scores(question), strict=True)
        scores = [body + _TITLE_WEIGHT * title for body, title in both]
        best = max(scores)
        titles = {chunk.title for chunk in self._chunks}
        matches = {title: best * title_match(question, title) for title in titles}
        scores = [score + matches[chunk.title] for score, chunk in zip(scores, self._chunks, strict=True)]
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:top_k]
        best_chunks = [i for i in order if scores[i] > 0] or order
        return [replace(self._chunks[i], score=float(scores[i])) for i in best_chunks]


def _pieces(text: str, max_chars: int, structure: Structure) -> list[Span]:
    """Spans of paragraphs, and of the units of paragraphs that are too long."""
    pieces: list[Span] = []
    starts = [start for start, _ in structure.spans]
    for match in _PARAGRAPH.finditer(text):
        start, end = match.span()
        first = bisect_left(starts, start)
        inside = structure.spans[first : bisect_left(starts, end)]
        crosses = first > 0 and structure.spans[first - 1][1] > start
        if end - start <= max_chars or not inside or crosses or inside[-1][1] > end:
            pieces.append((start, end))
        else:
            pieces += inside
    return pieces


def _chunks(document: Document, spans: Sequence[Span], structure: Structure) -> list[Chunk]:
    starts = [start for start, _ in structure.spans]
    return [_chunk(document, span, structure, starts) for span in spans]


def _chunk(document: Document, span: Span, structure: Structure, starts: Sequence[int]) -> Chunk:
    start, end = span
    first = max(bisect_left(starts, start + 1) - 1, 0)
    inside = range(first, bisect_left(starts, end))
    is_title = [structure.kinds[unit] in ("heading", "question") for unit in inside]
    above = structure.section_path(first) if starts else []
    titles = [unit for unit, titled in zip(inside, is_title, strict=True) if titled]
    body = [unit for unit, titled in zip(inside, is_title, strict=True) if not titled]

    def names(units: Sequence[int]) -> list[str]:
        texts = (document.text[slice(*structure.spans[unit])] for unit in units)
        return [" ".join(re.sub(r"<[^<>]{0,200}>", " ", text).strip("#*=-~ \n").split()) for text in texts]

    path = [name for name in names(above) if name.casefold() != (document.title or "").casefold()]
    return Chunk(
        document.text[start:end],
        " > ".join([*([document.title] if document.title else []), *path]) or None,
        f"{document.id}:{start}-{end}" if document.id else None,
        {**document.metadata, "start": start, "end": end},
        start=start,
        end=end,
        section=" > ".join([*path, *names(titles)]),
        body="\n".join(document.text[slice(*structure.spans[unit])] for unit in body),
    )
