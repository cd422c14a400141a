"""Batch jobs on Ray Data: build a shared index, and answer many questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from spec_rag.compression.document_draft import Draft
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.compression.passage_encoding import Indexed, index_documents
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.text.documents import Document

_DOCUMENTS_AT_ONCE = 16
_QUESTIONS_AT_ONCE = 8


class _Indexer:
    def __init__(self, draft: Any, folder: str, storage: Any, config: CompressionConfig) -> None:
        self._draft = Draft.of(draft, config=config)
        self._index = DocumentIndex(folder, memory_bytes=0, storage=storage)
        self._config = config

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        documents = [
            Document(str(text), None if title == "" else str(title))
            for text, title in zip(batch["text"], batch["title"], strict=True)
        ]
        indexed = index_documents(documents, self._draft, self._index, self._config)
        return {name: [value] for name, value in asdict(indexed).items()}


class _Answerer:
    def __init__(self, draft: Any, target: Any, settings: dict[str, Any], max_new_tokens: int) -> None:
        from spec_rag.models.model_pair import ModelPair

        self._pair = ModelPair.load(draft, target)
        self._settings = settings
        self._max_new_tokens = max_new_tokens

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        from spec_rag.answering.answer import answer_messages
        from spec_rag.compression.compress import compress
        from spec_rag.generation.generate import generate_batch

        kept = [
            compress([(None, str(text)) for text in texts], str(question), draft=self._pair, **self._settings)
            for question, texts in zip(batch["question"], batch["documents"], strict=True)
        ]
        prompts = [answer_messages(one) for one in kept]
        answers = generate_batch(self._pair, prompts, max_new_tokens=self._max_new_tokens)
        return {
            "number": list(batch["number"]),
            "question": list(batch["question"]),
            "answer": [answer.text for answer in answers],
            "tokens_before": [one.tokens_before for one in kept],
            "tokens_after": [one.tokens_after for one in kept],
        }


def index_with_ray(
    documents: Sequence[Document],
    folder: str | Path,
    *,
    draft: Any = DEFAULT_DRAFT,
    config: CompressionConfig | None = None,
    storage: Any = None,
    workers: int = 2,
    gpus: float = 0,
) -> Indexed:
    """Encode documents into one index with several workers on a Ray cluster.

    Args:
        documents: the documents.
        folder: folder of the index on shared storage.
        draft: name or path of the draft.
        config: settings of later questions.
        storage: precision of the index; None is the precision of the folder.
        workers: number of processes, each with the draft.
        gpus: GPUs per worker.

    Returns:
        The sums over all workers.
    """
    folder = str(Path(folder).expanduser().resolve())
    DocumentIndex(folder, memory_bytes=0, storage=storage)  # validates the arguments
    rows = [{"text": one.text, "title": one.title or ""} for one in documents]
    if not rows:
        return Indexed(0, 0, 0, 0)
    arguments = (draft, folder, storage, config or CompressionConfig())
    results = (
        ray.data.from_items(rows)
        .repartition(max(workers, -(-len(rows) // _DOCUMENTS_AT_ONCE)))
        .map_batches(
            _Indexer,
            fn_constructor_args=arguments,
            batch_size=_DOCUMENTS_AT_ONCE,
            compute=ActorPoolStrategy(size=workers),
            num_gpus=gpus or None,
        )
        .take_all()
    )
    return Indexed(**{name: sum(int(row[name]) for row in results) for name in results[0]})


def answer_with_ray(
    questions: Sequence[tuple[str, Sequence[str]]],
    *,
    draft: Any = DEFAULT_DRAFT,
    target: Any = DEFAULT_DRAFT,
    max_new_tokens: int = 40,
    workers: int = 2,
    gpus: float = 0,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Answer many questions, each from its own documents, with several workers on a Ray cluster.

    Args:
        questions: pairs of a question and the texts of its documents.
        draft: name or path of the draft.
        target: name or path of the target.
        max_new_tokens: maximum length of an answer.
        workers: number of processes, each with both models.
        gpus: GPUs per worker.
        **settings: fields of CompressionConfig.

    Returns:
        question, answer, tokens_before and tokens_after, in the order of the questions.

    Raises:
        ConfigError: a setting is invalid.
    """
    CompressionConfig.from_dict(settings)
    rows = [{"number": i, "question": asked, "documents": list(texts)} for i, (asked, texts) in enumerate(questions)]
    if not rows:
        return []
    results = (
        ray.data.from_items(rows)
        .repartition(max(workers, -(-len(rows) // _QUESTIONS_AT_ONCE)))
        .map_batches(
            _Answerer,
            fn_constructor_args=(draft, target, settings, max_new_tokens),
            batch_size=_QUESTIONS_AT_ONCE,
            compute=ActorPoolStrategy(size=workers),
            num_gpus=gpus or None,
        )
        .take_all()
    )
    ordered = sorted(results, key=lambda row: row["number"])
    return [{name: row[name] for name in row if name != "number"} for row in ordered]
