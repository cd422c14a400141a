"""Whole documents as one context that the target reads once, kept in a file for every later question.

This module does not know files' formats or terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spec_rag.answering.answer import INSTRUCTION
from spec_rag.answering.generators import LocalGenerator
from spec_rag.errors import ConfigError

if TYPE_CHECKING:
    from spec_rag.generation.context_cache import ContextCache
    from spec_rag.models.model_pair import ModelPair
    from spec_rag.results import Answer
    from spec_rag.text.documents import Document


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
