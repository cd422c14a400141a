"""The first job: documents and a question in, the parts that matter out, each with its place in its document.

    documents + query -> units -> passages -> draft -> signals -> scores -> selection -> Compression

What fits its budget passes through untouched, without a draft call. This module orders the stages; what a stage does is
in its own module.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.compression.document_draft import Draft, readout_for
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.compression.features import CompressionRequest
from spec_rag.compression.packing import ScoredDocuments, SelectedText, select
from spec_rag.compression.passages import Query, question_text, split_passages
from spec_rag.compression.path_match import match_paths
from spec_rag.compression.prefilter import gather_features, looks
from spec_rag.compression.scoring import head_features, probabilities, token_importance, unit_scores
from spec_rag.errors import ConfigError
from spec_rag.models.loading import LoadedModel
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.loading import DEFAULT_DRAFT, LoadOptions
from spec_rag.report import Compression
from spec_rag.results import CompressedDocument, KeptUnit
from spec_rag.text.documents import as_documents
from spec_rag.text.token_counting import Counter, token_counter
from spec_rag.text.units import Span, unit_spans, unit_structure
from spec_rag.utils.fair_lock import working_seconds

logger = logging.getLogger(__name__)


def compress(
    documents: Any,
    query: Query,
    *,
    draft: str | Path | PreTrainedModel | LoadedModel | ModelPair | Draft = DEFAULT_DRAFT,
    draft_options: LoadOptions | Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    index: DocumentIndex | str | Path | None = None,
    embedder: Any = None,
    scorer: Any = None,
    count_with: Any = "draft",
    backend: str | None = None,
    cancelled: threading.Event | None = None,
    **settings: Any,
) -> Compression:
    """Keep of the documents what matters for the question.

    Args:
        documents: strings, (title, text) pairs, spec_rag.Document, LangChain Documents or LlamaIndex nodes. Retrieval
            scores that come with them take part.
        query: the question, or a chat history whose last turns are the question: messages as dicts, of LangChain or
            of LlamaIndex. Of content parts the text counts; images and other media are left out.
        draft: the model that reads: a name or path, a loaded model, or the pair that has it.
        draft_options: how to load it: LoadOptions, or a dict of its fields.
        tokenizer: of a draft that is given as a model; None takes the one that lies beside its weights.
        index: where encoded documents are kept for the next question; the path of a folder is opened for this call.
        embedder: an embedding model whose similarities take part: LangChain Embeddings, LlamaIndex BaseEmbedding, or
            a function from a list of texts to vectors.
        scorer: whatever else says how well a text answers a question: a cross-encoder, a reranker of LangChain or
            LlamaIndex, a ColBERT model, a context pruner, or a function (question, texts) -> scores; see
            docs/scorers.md. Its order joins the score.
        count_with: what the budget's tokens are: "draft", a tokenizer, a tiktoken or OpenAI model name, a function.
        backend: kernel backend; None chooses by device.
        cancelled: an event that ends the work between two batches of passages when it is set; a
            `spec_rag.Cancellation` also ends the wait for the draft at once.
        **settings: fields of CompressionConfig: max_tokens, ratio, coverage, scoring, unit ... Without max_tokens,
            ratio and coverage, a quarter of the tokens is kept, and at least 160: shorter inputs pass whole.

    Returns:
        A Compression with one entry per document, in the given order unless order="relevance". It has at most the
        budget's tokens, with one exception: where no unit of at least average importance fits, the best one is kept
        whole, and `over_budget` says by how many tokens it exceeds the budget.

    Raises:
        ConfigError: an argument is of the wrong kind or out of range, or the query is empty.
        BudgetTooSmallError: (a ConfigError) what keep, keep_first, keep_last or document_min_tokens hold does not fit.
        ModelNotFoundError: the draft is not found.
        PromptTooLongError: scoring="joint" and the documents are beyond the draft's context.
        CancelledError: `cancelled` was set.
        OutOfMemoryError: the draft ran out of memory; the message says what takes less.
        NotFiniteError: the draft computed nan or inf.
    """
    config = CompressionConfig.from_dict(settings)
    index = DocumentIndex.of(index)
    if isinstance(documents, str) and not isinstance(query, str):
        raise ConfigError(
            f"documents={documents!r:.80} is a string, and query is missing: give the documents first, then the query."
        )
    question = question_text(query)
    given = as_documents(documents)
    reader = Draft.of(draft, draft_options, config, tokenizer)
    count = cache(token_counter(count_with, reader.tokenizer))  # texts are counted to read, choose and report
    blank = not any(document.text.strip() for document in given)
    if blank or not config.needs_reading([count(document.text) for document in given]):
        reading = ScoredDocuments.unread(given, question, reader.name)
    else:
        reading = read_documents(
            reader,
            given,
            question,
            config,
            index=index,
            embedder=embedder,
            scorer=scorer,
            backend=backend,
            cancelled=cancelled,
        )
    return keep(reading, config, count)


def read_documents(
    draft: Draft,
    documents: Any,
    question: str,
    config: CompressionConfig,
    *,
    index: DocumentIndex | None = None,
    embedder: Any = None,
    scorer: Any = None,
    backend: str | None = None,
    cancelled: threading.Event | None = None,
) -> ScoredDocuments:
    """Let the draft read the documents and score their units; `keep` then fits them to a budget, or to several.

    Raises:
        CancelledError: `cancelled` was set.
    """
    given = as_documents(documents)
    started = working_seconds()
    structures = [unit_structure(document.text, config.unit, config.language) for document in given]
    units = [list(structure.spans) for structure in structures]
    passages = split_passages(draft.tokenizer, given, units)
    inquiry = CompressionRequest(
        given, units, passages, question, config, index, embedder, scorer, backend, cancelled, structures
    )
    paths = match_paths(question, given, structures)
    readout = readout_for(draft, config)
    signals = gather_features(draft, inquiry)
    heads = head_features(signals)
    scores = paths.added_to(unit_scores(signals, readout, heads))
    likely, answerable = probabilities(signals, scores, readout, heads) or (None, None)
    return ScoredDocuments(
        documents=given,
        question=question,
        draft=draft.name,
        units=units,
        passages=passages,
        scores=scores,
        tokens=token_importance(signals),
        seconds=working_seconds() - started,
        looks=looks(passages, signals),
        probabilities=likely,
        answerable=answerable,
        structures=structures,
        paths=paths,
    )


def keep(reading: ScoredDocuments, config: CompressionConfig, count: Counter) -> Compression:
    """Keep the best units within the budget, and at least one.

    Args:
        reading: scored documents.
        config: budget, unit, ellipsis, what is held.
        count: tokens of a text.

    Raises:
        BudgetTooSmallError: what is held does not fit.
    """
    count = count if hasattr(count, "cache_info") else cache(count)
    texts = [document.text for document in reading.documents]
    before = [count(text) for text in texts]
    budget = min(config.budget_tokens(sum(before)), sum(before))
    if reading.scores is None:
        units = [unit_spans(text, config.unit, config.language) for text in texts]
        scores = [0.0] * sum(len(own) for own in units)
    else:
        units, scores = [list(own) for own in reading.units], reading.importance.tolist()
    if reading.scores is None or config.passes_whole(before):
        kept = [_whole(text, own) for text, own in zip(texts, units, strict=True)]
    else:
        kept = select(reading, config, count, budget)
    importance = iter(scores)
    documents = [
        CompressedDocument(
            text=left.text,
            spans=left.spans,
            source=document.source,
            title=document.title,
            original_text=document.text,
            tokens_before=tokens,
            tokens_after=count(left.text) if left.spans else 0,
            units=[
                KeptUnit(start, end, next(importance), count(document.text[start:end]), reason is not None, reason)
                for (start, end), reason in zip(own, left.reasons, strict=True)
            ],
        )
        for document, own, left, tokens in zip(reading.documents, units, kept, before, strict=True)
    ]
    over_budget = _over_budget(documents, config, budget)
    settings = dict(config)
    if config.order == "relevance" and reading.scores is not None:
        documents.sort(key=_best_kept, reverse=True)  # stable: what is dropped stays in the given order, at the end
    return Compression(
        documents,
        reading.question,
        budget,
        reading.draft,
        reading.seconds,
        settings,
        reading.looks,
        over_budget,
        reading.answerable,
    )


def _over_budget(documents: Sequence[CompressedDocument], config: CompressionConfig, budget: int) -> int:
    """Tokens beyond the budget, or beyond the cap of a document; logs a warning where there are some."""
    cap = config.document_max_tokens
    after = [document.tokens_after for document in documents]
    beyond = sum(after) - budget
    beyond_cap = max(after, default=0) - cap if cap is not None else 0
    over = max(beyond, beyond_cap, 0)
    if over:
        limit = f"the budget of {budget}" if beyond >= beyond_cap else f"document_max_tokens={cap}"
        logger.warning(
            "No unit of at least average importance fits %s tokens: the best one, of %d tokens, is kept whole. Raise "
            "the budget, or set cut_units=True to cut it.",
            limit,
            sum(after),
        )
    return over


def _whole(text: str, units: Sequence[Span]) -> SelectedText:
    return SelectedText([(0, len(text))], text, ["whole"] * len(units)) if text.strip() else SelectedText([], "", [])


def _best_kept(document: CompressedDocument) -> float:
    kept = (unit.importance for unit in document.units if unit.kept and unit.reason != "structure")
    return max(kept, default=-math.inf)
