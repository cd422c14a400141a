"""The first job: documents and a question in, the parts that matter out, each with its place in its document.

    documents + query -> units -> passages -> draft -> evidence -> scores -> selection -> Compression

What fits its budget passes through untouched, without a draft call. This module orders the stages; what a stage does is
in its own module.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from spec_rag.config import CompressionConfig
from spec_rag.counting import token_counter
from spec_rag.document_index import DocumentIndex
from spec_rag.documents import as_documents
from spec_rag.errors import ConfigError
from spec_rag.evidence import gather_evidence, joint_evidence, split_passages
from spec_rag.keeping import Reading, keep
from spec_rag.models import DEFAULT_DRAFT, LoadedModel, LoadOptions, ModelPair, load_model
from spec_rag.prompt import Query, question_text
from spec_rag.results import Compression
from spec_rag.scoring import token_importance, unit_scores
from spec_rag.units import unit_spans


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
    loaded = loaded_draft(draft, draft_options, config)
    assert loaded.tokenizer is not None
    count = token_counter(count_with, loaded.tokenizer)
    before = sum(count(document.text) for document in given)
    blank = not any(document.text.strip() for document in given)
    if blank or (before <= config.budget_tokens(before) and config.coverage is None):
        reading = Reading.unread(given, question, loaded.name)
    else:
        reading = read_documents(loaded, given, question, config, index=index, embedder=embedder, backend=backend)
    return keep(reading, config, count)


def read_documents(
    loaded: LoadedModel,
    documents: Any,
    question: str,
    config: CompressionConfig,
    *,
    index: DocumentIndex | None = None,
    embedder: Any = None,
    backend: str | None = None,
) -> Reading:
    """Let the draft read the documents and score their units; `keep` then fits them to a budget, or to several."""
    assert loaded.tokenizer is not None
    given = as_documents(documents)
    started = time.perf_counter()
    units = [unit_spans(document.text, config.unit, config.language) for document in given]
    passages = split_passages(loaded.tokenizer, given, units)
    gather = gather_evidence if config.scoring == "per_document" else joint_evidence
    with loaded.lock.hold():
        evidence = gather(
            loaded, given, units, passages, question, config, index=index, embedder=embedder, backend=backend
        )
    return Reading(
        documents=given,
        question=question,
        draft=loaded.name,
        units=units,
        passages=passages,
        scores=unit_scores(evidence),
        tokens=token_importance(evidence),
        seconds=time.perf_counter() - started,
    )


def loaded_draft(
    draft: Any, options: LoadOptions | None = None, config: CompressionConfig | None = None
) -> LoadedModel:
    """The draft of whatever was given as one; by name, with no more layers than the score needs.

    Raises:
        ConfigError: it has no tokenizer.
    """
    if isinstance(draft, LoadedModel):
        loaded = draft
    elif isinstance(draft, ModelPair):
        loaded = draft.loaded_draft()
    else:
        loaded = load_model(draft, options, scoring_only=config is not None and not config.needs_whole_draft)
    if loaded.tokenizer is None:
        raise ConfigError(f"draft={loaded.name!r} has no tokenizer: give it by name, or in a ModelPair with one.")
    return loaded
