"""What a question, a prefill and a batch cost: seconds and memory, side by side in one run.

Figures are Markdown. Nothing here judges: seconds depend on the machine, ratios less so.
"""

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

_FREED = {"MALLOC_MMAP_THRESHOLD_": str(256 * 1024)}  # glibc: larger blocks are the system's own, as soon as freed
COMPRESSED_SHARE = 0.25  # of the documents' tokens, in what is timed


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def joint_prompt(draft: Draft, asked: AnsweredQuestion) -> list[int]:
    """Instruction, documents and question as one prompt, in the draft's tokens."""
    layout = frame(draft.tokenizer)
    units = [unit_spans(document.text, "sentence") for document in asked.documents]
    body = [token for passage in split_passages(draft.tokenizer, asked.documents, units) for token in passage.ids]
    return [*layout.head, *body, *question_tokens(draft.tokenizer, layout, asked.question).ids]


def joint_prefill(draft: Draft, asked: AnsweredQuestion) -> int:
    """Read the prompt of all documents at once, filling a cache; returns its tokens."""
    ids = joint_prompt(draft, asked)
    with torch.no_grad():
        draft.model.get_decoder()(input_ids=torch.tensor([ids], device=draft.model.device), use_cache=True)
    return len(ids)


def ratios(draft: Draft, questions: Sequence[AnsweredQuestion], embedder: Any = None) -> str:
    """Markdown: the median over questions of each way's seconds, and of the joint prefill's seconds over them.

    Args:
        draft: the draft.
        questions: each is asked in every way.
        embedder: an embedding model whose reading of the same sentences is timed beside, or None.
    """
    taken = [compress_seconds(draft, asked, embedder) for asked in [questions[0], *questions]][1:]  # the first warms up
    lines = [f"| {len(questions)} questions | seconds | joint prefill is so many times slower |", "|---|---|---|"]
    for name in taken[0]:
        ratio = statistics.median(own["joint prefill"] / own[name] for own in taken)
        lines.append(f"| {name} | {statistics.median(own[name] for own in taken):.2f} | {ratio:.1f} |")
    return "\n".join(lines)


def compress_seconds(draft: Draft, asked: AnsweredQuestion, embedder: Any) -> dict[str, float]:
    """Seconds of each call on one question."""
    found = {"joint prefill": seconds(partial(joint_prefill, draft, asked))}
    titled = [f"{document.title}. {document.text}" for document in asked.documents]
    words = word_overlap(asked.question, titled)
    scored = [replace(document, score=score) for document, score in zip(asked.documents, words, strict=True)]
    ways: dict[str, tuple[Sequence[Document], dict[str, Any]]] = {
        "compress": (asked.documents, {}),
        "compress with retrieval scores": (scored, {}),
        "compress by words": (asked.documents, {"cascade": "always"}),
    }
    for name, (documents, settings) in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            ask = partial(compress, documents, asked.question, draft=draft, ratio=COMPRESSED_SHARE, **settings)
            filled = DocumentIndex(folder)
            found[f"{name}, nothing read before"] = seconds(ask)
            ask(index=filled)
            found[f"{name}, documents in memory"] = seconds(partial(ask, index=filled))
            found[f"{name}, documents on disk"] = seconds(partial(ask, index=DocumentIndex(folder)))
    if embedder is not None:
        sentences = [d.text[a:b] for d in asked.documents for a, b in unit_spans(d.text, "sentence")]
        found["embedding of the same sentences"] = seconds(partial(embedder, [asked.question, *sentences]))
    return found
