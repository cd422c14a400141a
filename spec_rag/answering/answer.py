"""Answers from retrieved chunks or from one context, and the text that supports an answer."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec_rag.answering.chunking import Chunk
from spec_rag.answering.generators import Generator, LocalGenerator
from spec_rag.errors import ConfigError
from spec_rag.text.languages import function_words
from spec_rag.text.words import is_unspaced, telling_words

if TYPE_CHECKING:
    from spec_rag.compression.document_draft import Draft
    from spec_rag.compression.encoding_cache import DocumentIndex
    from spec_rag.generation.context_cache import ContextCache
    from spec_rag.models.model_pair import ModelPair
    from spec_rag.options.compression import SpecKVConfig
    from spec_rag.report import Compression
    from spec_rag.results import Answer, CompressedDocument
    from spec_rag.text.documents import Document

INSTRUCTION = "Answer the question in one short sentence, using only the given text."
DEFAULT_KV_CAPACITY = 256

_QUESTION_WORD_WEIGHT = 0.3  # words of the question break ties


@dataclass(frozen=True)
class Support:
    """Location of the text that supports an answer.

    Attributes:
        source: the file, or the document's title if it has none.
        start, end: character range in the file's text.
        text: exactly these characters.
        importance: score by the draft.
        matched: whether it shares words with the answer that are not in the question; else it is the kept text with the
            highest score.
        page: page number in a PDF, counted from 1, or None.
    """

    source: str
    start: int
    end: int
    text: str
    importance: float
    matched: bool
    page: int | None = None


@dataclass(frozen=True)
class Answered:
    """An answer with its compression and support.

    Attributes:
        compression: the compressed chunks.
        answer: the answer with its costs.
        support: the supporting text; None if no kept text supports the answer.
        seconds: wall time from the chunks to the last token.
        model: name of the model that answered.
    """

    compression: Compression
    answer: Answer
    support: Support | None
    seconds: float
    model: str = ""


def answer_from(
    pair: ModelPair | Draft,
    question: str,
    chunks: Sequence[Chunk],
    *,
    speckv: SpecKVConfig | None = None,
    generator: Generator | None = None,
    max_new_tokens: int = 40,
    index: DocumentIndex | None = None,
    emit: Callable[[str], None] | None = None,
    **settings: Any,
) -> Answered:
    """Compress the chunks with the draft and answer from the kept text.

    Args:
        pair: draft and target; the draft is enough if a generator is given.
        question: the question.
        chunks: retrieved chunks, best first.
        speckv: pruning of the target's KV cache; None keeps all of it.
        generator: answers instead of the target.
        max_new_tokens: maximum length of the answer.
        index: cache of encoded chunks for later questions.
        emit: called with each piece of the answer as it is written.
        **settings: fields of CompressionConfig.

    Raises:
        ConfigError: neither a target nor a generator is given.
    """
    from spec_rag.compression.compress import compress
    from spec_rag.models.model_pair import ModelPair

    if generator is None:
        generator = LocalGenerator(ModelPair.check(pair), speckv=speckv)
    started = time.perf_counter()
    # BM25 scores do not improve the scores of the draft
    settings = {"retrieval": False, **settings}
    compression = compress(chunks, question, draft=pair, index=index, **settings)
    answer = generator.answer(answer_messages(compression), max_new_tokens, emit or (lambda piece: None))
    seconds = time.perf_counter() - started
    return Answered(compression, answer, find_support(compression, answer.text), seconds, generator.model)


def context_of(pair: ModelPair, documents: Sequence[Document], path: Path, keep: float | None = None) -> ContextCache:
    """Load the context of the documents from a file, or read it and write the file if texts or settings differ.

    Args:
        pair: the models; the target is required.
        documents: whole documents, in order.
        path: the file.
        keep: share of key-value pairs that is kept; None is the default, or the file's value. At least 256 pairs per
            KV head are kept.

    Raises:
        ConfigError: the documents have no text, or the file belongs to another target.
        PromptTooLongError: the documents exceed the target's context length.
    """
    from spec_rag.generation.context_cache import MIN_PAIRS, ContextCache
    from spec_rag.text.context_prompts import context_ids

    texts = [f"{document.title}: {document.text}" if document.title else document.text for document in documents]
    text = "\n\n".join(texts)
    if not text.strip():
        raise ConfigError("The documents have no text to answer from.")
    system = INSTRUCTION if pair.require_tokenizer().chat_template else None
    if path.exists():
        cached = ContextCache.load(path, pair)
        same = cached.ids.tolist() == context_ids(pair.tokenizer, text, system).tolist()
        enough = round(cached.settings["kept"] * cached.tokens) >= min(MIN_PAIRS, cached.tokens)
        if same and enough and keep in (None, cached.settings["asked"]):
            return cached
    cache = ContextCache.read(pair, text, system=system, keep=keep, min_pairs=MIN_PAIRS)
    cache.save(path)
    return cache


def answer_from_context(
    pair: ModelPair,
    question: str,
    context: ContextCache,
    *,
    max_new_tokens: int = 40,
    emit: Callable[[str], None] = lambda piece: None,
) -> Answer:
    """Answer a question on a context; `emit` is called with each piece of the answer as it is written."""
    return LocalGenerator(pair, context=context).answer(f"Question: {question}", max_new_tokens, emit)


def answer_messages(compression: Compression) -> list[dict[str, str]]:
    """The chat for the target: the kept texts with their titles, then the question."""
    texts = [f"{d.title}: {d.text}" if d.title else d.text for d in compression.documents if d.text]
    content = "\n\n".join([*texts, f"Question: {compression.query}"])
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": content}]


def find_support(compression: Compression, answer: str) -> Support | None:
    """The kept text that shares the most words with the answer, else the most important one.

    Function words, words of the question and numbers of list items do not count.

    Returns:
        None if nothing was kept, or no text shares a word with the answer and no text was scored.
    """
    kept = list(_kept_texts(compression))
    ignored = function_words(" ".join(piece.text for piece in kept)) | function_words(answer)
    question_words = set(telling_words(compression.query, ignored))
    answer_words = set(telling_words(answer, ignored)) - question_words
    words = [_matchable(piece.text) for piece in kept]
    frequency = Counter(word for text_words in words for word in text_words)

    def weight(shared: set[str]) -> float:
        return sum(math.log(1 + len(kept) / frequency[word]) for word in shared)

    def rank(i: int) -> tuple[float, float]:
        score = weight(words[i] & answer_words)
        if score:
            score += _QUESTION_WORD_WEIGHT * weight(words[i] & question_words)
        return score, kept[i].importance

    best = max(range(len(kept)), key=rank, default=None)
    if best is None or not (words[best] & answer_words or kept[best].importance):
        return None
    piece = kept[best]
    metadata = getattr(piece.document.source, "metadata", None) or {}
    offset = int(metadata.get("start", 0))
    pages = [start for start in metadata.get("page_starts", ()) if start <= offset + piece.start]
    return Support(
        source=str(metadata.get("source") or piece.document.title or ""),
        start=offset + piece.start,
        end=offset + piece.end,
        text=piece.text,
        importance=piece.importance,
        matched=bool(words[best] & answer_words),
        page=len(pages) or None,
    )


@dataclass(frozen=True)
class _KeptText:
    document: CompressedDocument
    start: int
    end: int
    importance: float

    @property
    def text(self) -> str:
        return self.document.original_text[self.start : self.end]


def _kept_texts(compression: Compression) -> Iterator[_KeptText]:
    """The kept text as sentences if these were scored, else as spans."""
    by_span = compression.settings.get("unit") == "token"
    for document in compression.documents:
        for start, end in document.spans:
            units = [u for u in document.units if u.start < end and u.end > start]
            if by_span or not units:
                yield _KeptText(document, start, end, max((u.importance for u in units), default=0.0))
                continue
            for unit in units:
                yield _KeptText(document, max(unit.start, start), min(unit.end, end), unit.importance)


def _matchable(text: str) -> set[str]:
    """Content words of a text, and single characters in scripts without spaces."""
    words = set(telling_words(text))
    return words | {character for word in words if is_unspaced(word) for character in word}
