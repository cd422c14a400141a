"""Chunks of documents and their retrieval by BM25."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from spec_rag.errors import ConfigError
from spec_rag.text.documents import Document
from spec_rag.text.languages import AUTO
from spec_rag.text.units import Span, passage_spans, sentence_spans, unit_spans
from spec_rag.text.words import WordIndex, title_match

DEFAULT_CHUNK_CHARS = 900
DEFAULT_TOP_K = 8

_PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:\n[^\S\n]*\S(?:.*\S)?)*")
_HEADING = re.compile(r"#{1,6}[ \t][^\n]*")


@dataclass(frozen=True)
class Chunk(Document):
    """A piece of a document: `text` is `document.text[start:end]`."""

    start: int = 0
    end: int = 0


def split_chunks(document: Document, max_chars: int = DEFAULT_CHUNK_CHARS) -> list[Chunk]:
    """Split a document into chunks of whole paragraphs, at most `max_chars` long.

    A longer paragraph is split between sentences. A heading starts a chunk.

    Raises:
        ConfigError: `max_chars` is below 1.
    """
    if max_chars < 1:
        raise ConfigError(f"max_chars={max_chars}: a chunk needs at least one character.")
    spans: list[Span] = []
    after_heading = False
    for start, end in _pieces(document.text, max_chars):
        heading = _HEADING.match(document.text, start, end)
        fits = bool(spans) and end - spans[-1][0] <= max_chars
        if after_heading or (fits and not heading):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
        after_heading = heading is not None and heading.end() == end
    return [_chunk(document, start, end) for start, end in spans]


def passage_chunks(document: Document, language: str = AUTO) -> list[Chunk]:
    """Split a document into the passages that the draft encodes, at most 2,000 characters long.

    They are found in an index that was filled with the whole document and the same language.

    Args:
        document: the document.
        language: language of its sentences, as in CompressionConfig.
    """
    units = unit_spans(document.text, "sentence", language)
    return [_chunk(document, start, end) for start, end in passage_spans(document.text, units)]


def retrieve(question: str, chunks: Sequence[Chunk], top_k: int = DEFAULT_TOP_K) -> list[Chunk]:
    """The chunks with the highest BM25 scores, best first.

    A title that matches the question adds up to the score of the best chunk, so that a text that only repeats the
    question does not rank first. Chunks without a word of the question are omitted; if no chunk has one, the first
    chunks are returned with score 0.

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
        self._words = WordIndex([f"{chunk.title or ''}\n{chunk.text}" for chunk in chunks])

    def retrieve(self, question: str, top_k: int = DEFAULT_TOP_K) -> list[Chunk]:
        """The best chunks for a question; see `retrieve`."""
        if not question.strip():
            raise ConfigError(f"question={question!r} is empty: give a question.")
        if top_k < 1:
            raise ConfigError(f"top_k={top_k}: retrieve at least one chunk.")
        if not self._chunks:
            return []
        scores = self._words.scores(question)
        best = max(scores)
        titles = {chunk.title for chunk in self._chunks}
        matches = {title: best * title_match(question, title) for title in titles}
        scores = [score + matches[chunk.title] for score, chunk in zip(scores, self._chunks, strict=True)]
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:top_k]
        best_chunks = [i for i in order if scores[i] > 0] or order
        return [replace(self._chunks[i], score=float(scores[i])) for i in best_chunks]


def _pieces(text: str, max_chars: int) -> list[Span]:
    """Spans of paragraphs, or of the sentences of long paragraphs."""
    pieces: list[Span] = []
    for match in _PARAGRAPH.finditer(text):
        start, end = match.span()
        if end - start <= max_chars:
            pieces.append((start, end))
        else:
            pieces += [(start + a, start + b) for a, b in sentence_spans(text[start:end], AUTO)]
    return pieces


def _chunk(document: Document, start: int, end: int) -> Chunk:
    metadata = {**document.metadata, "start": start, "end": end}
    identity = f"{document.id}:{start}-{end}" if document.id else None
    return Chunk(document.text[start:end], document.title, identity, metadata, start=start, end=end)
