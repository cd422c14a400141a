"""The first job: documents and a question in, the parts that matter out, each with its place in its document.

    documents + query -> units -> passages -> draft -> evidence -> scores -> selection -> Compression

What fits its budget passes through untouched, without a draft call. This module orders the stages; what a stage does is
in its own module.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from spec_rag.config import CompressionConfig
from spec_rag.counting import Counter, token_counter
from spec_rag.document_index import DocumentIndex
from spec_rag.documents import Document, as_documents
from spec_rag.errors import ConfigError
from spec_rag.evidence import Passage, gather_evidence, joint_evidence, split_passages
from spec_rag.models import DEFAULT_DRAFT, LoadedModel, LoadOptions, ModelPair, load_model
from spec_rag.prompt import Query, question_text
from spec_rag.results import CompressedDocument, Compression, KeptUnit
from spec_rag.scoring import token_importance, unit_scores
from spec_rag.unit_selection import best_window, kept_text, merged, select_units
from spec_rag.units import Span, unit_spans, word_spans

_MIN_CUT_TOKENS = 8


def compress(
    documents: Any,
    query: Query,
    *,
    draft: str | Path | PreTrainedModel | LoadedModel | ModelPair = DEFAULT_DRAFT,
    draft_options: LoadOptions | None = None,
    index: DocumentIndex | None = None,
    embedder: Any = None,
    count_with: Any = "draft",
    backend: str | None = None,
    **settings: Any,
) -> Compression:
    """Keep of the documents what matters for the question.

    Args:
        documents: strings, (title, text) pairs, spec_rag.Document, LangChain Documents or LlamaIndex nodes. Retrieval
            scores that come with them take part.
        query: the question, or a chat history whose last turns are the question.
        draft: the model that reads: a name or path, a loaded model, or the pair that has it.
        draft_options: how to load it.
        index: where encoded documents are kept for the next question.
        embedder: an embedding model whose similarities take part: LangChain Embeddings, LlamaIndex BaseEmbedding, or
            a function from a list of texts to vectors.
        count_with: what the budget's tokens are: "draft", a tokenizer, a tiktoken or OpenAI model name, a function.
        backend: kernel backend; None chooses by device.
        **settings: fields of CompressionConfig: max_tokens, ratio, coverage, scoring, unit ...

    Returns:
        A Compression with one entry per document, in the given order; never more tokens than the budget.

    Raises:
        ConfigError: an argument is of the wrong kind or out of range, or the query is empty.
        ModelNotFoundError: the draft is not found.
        PromptTooLongError: scoring="joint" and the documents are beyond the draft's context.
    """
    config = CompressionConfig.from_dict(settings)
    question = question_text(query)
    given = as_documents(documents)
    loaded = _loaded(draft, draft_options)
    if loaded.tokenizer is None:
        raise ConfigError(
            f"draft={loaded.name!r} has no tokenizer: give it by name, or as ModelPair(..., tokenizer=...)."
        )
    count = token_counter(count_with, loaded.tokenizer)
    texts = [document.text for document in given]
    before = [count(text) for text in texts]
    budget = config.budget_tokens(sum(before))
    if config.max_tokens is not None:
        budget = min(budget, sum(before)) if sum(before) else budget
    units = [unit_spans(text, config.unit) for text in texts]
    if sum(before) <= budget and config.coverage is None:
        kept = [[(0, len(text))] if text.strip() else [] for text in texts]
        return _result(given, before, units, None, kept, question, budget, loaded.name, 0.0, config, count)
    started = time.perf_counter()
    passages = split_passages(loaded.tokenizer, given, units)
    with loaded.lock.hold():
        gather = gather_evidence if config.scoring == "per_document" else joint_evidence
        evidence = gather(
            loaded, given, units, passages, question, config, index=index, embedder=embedder, backend=backend
        )
    scores = unit_scores(evidence)
    words = token_importance(evidence)
    kept = _select(texts, units, passages, scores, words, budget, config, count)
    seconds = time.perf_counter() - started
    return _result(given, before, units, scores, kept, question, budget, loaded.name, seconds, config, count)


def _loaded(draft: Any, options: LoadOptions | None) -> LoadedModel:
    if isinstance(draft, LoadedModel):
        return draft
    if isinstance(draft, ModelPair):
        return draft.loaded_draft()
    return load_model(draft, options)


@dataclass(frozen=True)
class _UnitAddress:
    document: int
    span: Span


def _select(
    texts: Sequence[str],
    units: Sequence[Sequence[Span]],
    passages: Sequence[Passage],
    scores: Tensor,
    words: Tensor,
    budget: int,
    config: CompressionConfig,
    count: Counter,
) -> list[list[Span]]:
    """Kept spans per document: whole units, then the best part of the first that does not fit whole."""
    addresses = [_UnitAddress(d, span) for d, spans in enumerate(units) for span in spans]
    tokens = [count(texts[a.document][slice(*a.span)]) for a in addresses]
    while True:
        kept = select_units(scores, tokens, budget, config.coverage)
        spans: list[list[Span]] = []
        for d, own in enumerate(units):
            first = sum(len(u) for u in units[:d])
            indices = [i - first for i in kept if addresses[i].document == d]
            spans.append(merged([own[i] for i in indices], own, indices))
        used = _count_kept(texts, spans, config, count)
        if used <= budget or not kept:
            break
        # what joins the kept units costs tokens too: give up the least of them
        tokens[min(kept, key=lambda i: float(scores[i]))] = budget + 1
    may_cut = config.unit == "sentence" and config.coverage is None
    if may_cut or not kept:
        _cut_one_more(texts, addresses, passages, scores, words, kept, spans, budget - used, config, count)
    return spans


def _cut_one_more(
    texts: Sequence[str],
    addresses: Sequence[_UnitAddress],
    passages: Sequence[Passage],
    scores: Tensor,
    words: Tensor,
    kept: Sequence[int],
    spans: list[list[Span]],
    room: int,
    config: CompressionConfig,
    count: Counter,
) -> None:
    """Spend what is left on the best run of words of the best unit of which at least half fits, or of any if none is
    kept yet."""
    if room < 1:
        return
    for i in scores.argsort(descending=True, stable=True).tolist():
        if i in kept:
            continue
        address = addresses[i]
        text = texts[address.document]
        length = count(text[slice(*address.span)])
        if kept and (room < _MIN_CUT_TOKENS or room < length / 2):
            continue
        window = best_window(text, address.span, _word_scores(passages, address, text, words), count, room)
        if window is None:
            continue
        candidate = sorted([*spans[address.document], window])
        trial = [*spans[: address.document], candidate, *spans[address.document + 1 :]]
        allowed = room + _count_kept(texts, spans, config, count)
        if _count_kept(texts, trial, config, count) <= allowed:
            spans[address.document] = candidate
            return


def _word_scores(passages: Sequence[Passage], address: _UnitAddress, text: str, words: Tensor) -> list[float]:
    passage = next(
        p
        for p in passages
        if p.document == address.document and p.start <= address.span[0] and address.span[1] <= p.end
    )
    scores = []
    for a, b in word_spans(text[slice(*address.span)]):
        first, last = passage.token_range(address.span[0] + a, address.span[0] + b)
        scores.append(float(words[first:last].sum()) if last > first else 0.0)
    return scores


def _count_kept(
    texts: Sequence[str], spans: Sequence[Sequence[Span]], config: CompressionConfig, count: Counter
) -> int:
    return sum(count(kept_text(text, own, config.ellipsis)) for text, own in zip(texts, spans, strict=True) if own)


def _result(
    documents: Sequence[Document],
    before: Sequence[int],
    units: Sequence[Sequence[Span]],
    scores: Tensor | None,
    kept: Sequence[list[Span]],
    question: str,
    budget: int,
    draft: str,
    seconds: float,
    config: CompressionConfig,
    count: Counter,
) -> Compression:
    compressed = []
    position = 0
    for d, document in enumerate(documents):
        own = [
            KeptUnit(
                start,
                end,
                float(scores[position + i]) if scores is not None else 0.0,
                count(document.text[start:end]),
                any(a < end and b > start for a, b in kept[d]),
            )
            for i, (start, end) in enumerate(units[d])
        ]
        position += len(units[d])
        text = document.text if scores is None else kept_text(document.text, kept[d], config.ellipsis)
        compressed.append(
            CompressedDocument(
                text=text if kept[d] else "",
                spans=kept[d],
                source=document.source,
                title=document.title,
                original_text=document.text,
                tokens_before=before[d],
                tokens_after=count(text) if kept[d] else 0,
                units=own,
            )
        )
    return Compression(compressed, question, budget, draft, seconds, asdict(config))
