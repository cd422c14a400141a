"""A question over retrieved chunks: compress them, answer from what is kept, find the support.

This module does not know files, terminals or which model answers.
"""

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

_QUESTION_WORD_WEIGHT = 0.3  # an answer's own words point to its support; the question's words break ties


@dataclass(frozen=True)
class Support:
    """Where an answer's support stands.

    Attributes:
        source: the file, or the document's title if it has none.
        start, end: character range in the file's text.
        text: exactly these characters.
        importance: what the draft gave to it.
        matched: whether it shares words with the answer that are not the question's; otherwise it is simply the most
            important kept text.
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
    """An answer with all that led to it.

    Attributes:
        compression: the chunks and what was kept of them.
        answer: what was written, and what it cost.
        support: where the answer's words come from; None where nothing that was kept supports it.
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
    """Compress the chunks with the draft, and answer from what is kept.

    Args:
        pair: draft and target; a draft alone where a generator is given.
        question: the question.
        chunks: what was retrieved, best first.
        speckv: how the target's KV cache is pruned; None keeps it.
        generator: what answers in place of the target.
        max_new_tokens: at most so many tokens are written.
        index: where encoded chunks are kept for the next question.
        emit: called with each piece of the answer as it is written.
        **settings: fields of CompressionConfig.

    Raises:
        ConfigError: there is neither a target nor a generator.
    """
    from spec_rag.compression.compress import compress
    from spec_rag.models.model_pair import ModelPair

    if generator is None:
        generator = LocalGenerator(ModelPair.check(pair), speckv=speckv)
    started = time.perf_counter()
    # the chunks' scores are BM25: what words can tell, the draft sees better
    settings = {"retrieval": False, **settings}
    compression = compress(chunks, question, draft=pair, index=index, **settings)
    answer = generator.answer(answer_messages(compression), max_new_tokens, emit or (lambda piece: None))
    seconds = time.perf_counter() - started
    return Answered(compression, answer, find_support(compression, answer.text), seconds, generator.model)


def context_of(pair: ModelPair, documents: Sequence[Document], path: Path, keep: float | None = None) -> ContextCache:
    """The context of these documents, from its file where that is of the same texts and settings; else it is read.

    Args:
        pair: the models; the target is needed.
        documents: whole, in their order.
        path: the file, which is written where the context had to be read.
        keep: share of the pairs that is kept; None is the default, or what the file was made with. At least 256 pairs
            of each KV head are kept in any case.

    Raises:
        ConfigError: there is no text, or the file is of another target.
        PromptTooLongError: the documents are beyond the target's context.
    """
    from spec_rag.generation.context_cache import MIN_PAIRS, ContextCache
    from spec_rag.text.context_prompts import context_ids

    texts = [f"{document.title}: {document.text}" if document.title else document.text for document in documents]
    text = "\n\n".join(texts)
    if not text.strip():
        raise ConfigError("The documents have no text to answer from.")
    system = INSTRUCTION if pair.require_tokenizer().chat_template else None
    if path.exists():
        found = ContextCache.load(path, pair)
        same = found.ids.tolist() == context_ids(pair.tokenizer, text, system).tolist()
        enough = round(found.settings["kept"] * found.tokens) >= min(MIN_PAIRS, found.tokens)
        if same and enough and keep in (None, found.settings["asked"]):
            return found
    made = ContextCache.read(pair, text, system=system, keep=keep, min_pairs=MIN_PAIRS)
    made.save(path)
    return made


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
    """The chat from which the target answers: the kept texts under their titles, then the question."""
    texts = [f"{d.title}: {d.text}" if d.title else d.text for d in compression.documents if d.text]
    content = "\n\n".join([*texts, f"Question: {compression.query}"])
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": content}]


def find_support(compression: Compression, answer: str) -> Support | None:
    """The kept text that the answer's words come from, or else the most important one.

    Function words, the question's own words and the numbers of list items do not count.

    Returns:
        None where nothing was kept, or no text shares a word with the answer and none was scored.
    """
    kept = list(_kept_texts(compression))
    ignored = function_words(" ".join(piece.text for piece in kept)) | function_words(answer)
    asked = set(telling_words(compression.query, ignored))
    told = set(telling_words(answer, ignored)) - asked
    words = [_matchable(piece.text) for piece in kept]
    frequency = Counter(word for own in words for word in own)

    def weight(shared: set[str]) -> float:
        return sum(math.log(1 + len(kept) / frequency[word]) for word in shared)

    def rank(i: int) -> tuple[float, float]:
        own = weight(words[i] & told)
        return (own + _QUESTION_WORD_WEIGHT * weight(words[i] & asked) if own else 0.0, kept[i].importance)

    best = max(range(len(kept)), key=rank, default=None)
    if best is None or not (words[best] & told or kept[best].importance):
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
        matched=bool(words[best] & told),
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
    """What was kept, sentence by sentence where sentences were scored, else span by span."""
    by_span = compression.settings.get("unit") == "token"
    for document in compression.documents:
        for start, end in document.spans:
            inside = [u for u in document.units if u.start < end and u.end > start]
            if by_span or not inside:
                yield _KeptText(document, start, end, max((u.importance for u in inside), default=0.0))
                continue
            for unit in inside:
                yield _KeptText(document, max(unit.start, start), min(unit.end, end), unit.importance)


def _matchable(text: str) -> set[str]:
    """The telling words of a text; of scripts without spaces also single characters, which may be a whole answer."""
    found = set(telling_words(text))
    return found | {character for word in found if is_unspaced(word) for character in word}
