"""Seconds of `compress`, cold and indexed, compared with a joint prefill of all documents in the same run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from spec_rag.compression.compress import compress
from spec_rag.compression.document_draft import Draft
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.compression.passages import frame, question_tokens, split_passages
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.text.documents import Document
from spec_rag.text.units import unit_spans
from spec_rag.text.words import word_overlap

COMPRESSED_SHARE = 0.25  # ratio of the timed compressions


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def joint_prompt(draft: Draft, asked: AnsweredQuestion) -> list[int]:
    """Token ids of one prompt with instruction, documents and question."""
    layout = frame(draft.tokenizer)
    units = [unit_spans(document.text, "sentence") for document in asked.documents]
    body = [token for passage in split_passages(draft.tokenizer, asked.documents, units) for token in passage.ids]
    return [*layout.head, *body, *question_tokens(draft.tokenizer, layout, asked.question).ids]


def joint_prefill(draft: Draft, asked: AnsweredQuestion) -> int:
    """Run the draft on the prompt of all documents with a KV cache; return the number of tokens."""
    ids = joint_prompt(draft, asked)
    with torch.no_grad():
        draft.model.get_decoder()(input_ids=torch.tensor([ids], device=draft.model.device), use_cache=True)
    return len(ids)


def ratios(draft: Draft, questions: Sequence[AnsweredQuestion], embedder: Any = None) -> str:
    """Markdown table: median seconds of each method, and the median ratio of the joint prefill to it.

    Args:
        draft: the draft.
        questions: each is timed with every method.
        embedder: an embedding model that is timed on the same sentences, or None.
    """
    taken = [compress_seconds(draft, asked, embedder) for asked in [questions[0], *questions]][1:]  # the first warms up
    lines = [f"| {len(questions)} questions | seconds | ratio of joint prefill |", "|---|---|---|"]
    for name in taken[0]:
        ratio = statistics.median(row["joint prefill"] / row[name] for row in taken)
        lines.append(f"| {name} | {statistics.median(row[name] for row in taken):.2f} | {ratio:.1f} |")
    return "\n".join(lines)


def compress_seconds(draft: Draft, asked: AnsweredQuestion, embedder: Any) -> dict[str, float]:
    """Seconds of each method on one question, by its name."""
    times = {"joint prefill": seconds(partial(joint_prefill, draft, asked))}
    titled = [f"{document.title}. {document.text}" for document in asked.documents]
    words = word_overlap(asked.question, titled)
    scored = [replace(document, score=score) for document, score in zip(asked.documents, words, strict=True)]
    methods: dict[str, tuple[Sequence[Document], dict[str, Any]]] = {
        "compress": (asked.documents, {}),
        "compress with retrieval scores": (scored, {}),
        "compress by words": (asked.documents, {"cascade": "always"}),
    }
    for name, (documents, settings) in methods.items():
        with tempfile.TemporaryDirectory() as folder:
            ask = partial(compress, documents, asked.question, draft=draft, ratio=COMPRESSED_SHARE, **settings)
            index = DocumentIndex(folder)
            times[f"{name}, no index"] = seconds(ask)
            ask(index=index)
            times[f"{name}, index in memory"] = seconds(partial(ask, index=index))
            times[f"{name}, index on disk"] = seconds(partial(ask, index=DocumentIndex(folder)))
    if embedder is not None:
        sentences = [d.text[a:b] for d in asked.documents for a, b in unit_spans(d.text, "sentence")]
        times["embedding of the same sentences"] = seconds(partial(embedder, [asked.question, *sentences]))
    return times
