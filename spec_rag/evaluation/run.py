"""Running methods over tasks: what is kept of documents, and what a target answers from it, with intervals.

An interrupted run goes on where it stopped. This module does not know terminals, or how a method works.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from spec_rag.answering.pipeline import answer_messages
from spec_rag.compression.draft import Draft
from spec_rag.compression.index import DocumentIndex
from spec_rag.compression.pipeline import compress
from spec_rag.config import SpecPCConfig
from spec_rag.errors import ConfigError
from spec_rag.evaluation.chart import Point
from spec_rag.evaluation.methods.budgets import PARTS
from spec_rag.evaluation.methods.case import Case, Variant
from spec_rag.evaluation.methods.variants import EMBEDDED, VARIANTS
from spec_rag.evaluation.records import append_lines, read_lines
from spec_rag.evaluation.tasks.metrics import holds_answer
from spec_rag.evaluation.tasks.multidoc import AnsweredQuestion
from spec_rag.generation.pipeline import generate
from spec_rag.models.pair import ModelPair
from spec_rag.progress import steps
from spec_rag.text.prompts import prompt_ids
from spec_rag.text.token_counter import token_counter

Kept = dict[str, list[list[bool]]]
"""Per variant, per question: whether an answer was kept at each budget."""
Answerer = Callable[[ModelPair, AnsweredQuestion], str]

_MAX_NEW_TOKENS = 40


def variants_for(draft: str, embedder: Any, names: Sequence[str] | None = None) -> dict[str, Variant]:
    """The variants that this draft and embedder allow, or those of them that are named.

    Raises:
        ConfigError: a name is unknown.
    """
    known = {
        **VARIANTS,
        **(EMBEDDED if embedder is not None else {}),
    }
    for name in names or ():
        if name not in known:
            raise ConfigError(f"variant {name!r} is not one of {', '.join(known)}.")
    return {name: known[name] for name in names} if names else known


def kept_answers(
    draft: Draft,
    questions: Sequence[AnsweredQuestion],
    variants: Mapping[str, Variant],
    *,
    embedder: Any = None,
    signals: Path | None = None,
    with_titles: bool = False,
) -> Kept:
    """Try every variant on every question: is an answer still in what is kept?

    Args:
        draft: the draft.
        questions: with documents and answers.
        variants: by name.
        embedder: for the variants that need one.
        signals: folder where what the draft saw is kept between runs, or None.
        with_titles: count titles and numbers into the tokens that the budgets are shares of.
    """
    kept: Kept = {name: [] for name in variants}
    with steps("Reading", len(questions)) as done:
        for asked in questions:
            case = Case(draft, asked, embedder, signals, with_titles)
            for name, variant in variants.items():
                kept[name].append([holds_answer(text, asked.answers) for text in variant(case)])
            done()
    return kept


def interval(hits: Sequence[float], resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the mean."""
    values = np.asarray(hits, dtype=float)
    if len(values) < 2 or bool((values == values[0]).all()):
        return float(values.mean()), float(values.mean())
    found = bootstrap((values,), np.mean, n_resamples=resamples, method="percentile", rng=seed).confidence_interval
    return float(found.low), float(found.high)


def points(kept: Kept, resamples: int = 2000) -> dict[str, list[Point]]:
    """Per variant and budget, the share of questions of which an answer was kept."""
    return {
        name: [Point(sum(hits) / len(hits), *interval(hits, resamples)) for hits in zip(*rows, strict=True)]
        for name, rows in kept.items()
    }


def kept_table(kept: Kept, resamples: int = 2000) -> str:
    """Markdown: a row per variant, a column per budget."""
    count = len(next(iter(kept.values())))
    lines = [
        f"| answer kept, {count} questions | " + " | ".join(f"1/{part}" for part in PARTS) + " |",
        "|---|" + "---|" * len(PARTS),
    ]
    for name, row in points(kept, resamples).items():
        cells = " | ".join(f"{point.share:.3f} [{point.low:.2f}, {point.high:.2f}]" for point in row)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def load_embedder(name: str) -> Callable[[list[str]], list[list[float]]]:
    """Mean-pooled sentence embeddings of an encoder's folder, or of a package that has it as MODEL_DIR.

    Raises:
        ConfigError: there is no such folder or package.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    if Path(name).is_dir():
        folder = name
    else:
        try:
            folder = str(importlib.import_module(name).MODEL_DIR)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"embedder={name!r} is neither a folder nor a package with a MODEL_DIR.") from error
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def embed(texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(texts), 16):
            batch = tokenizer(texts[start : start + 16], padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            vectors += ((hidden * mask).sum(1) / mask.sum(1)).tolist()
        return vectors

    return embed


def from_all_documents(pair: ModelPair, asked: AnsweredQuestion) -> str:
    """The answer from all documents."""
    return from_kept(1)(pair, asked)


def from_kept(part: int, index: DocumentIndex | None = None) -> Answerer:
    """The answer from what the package keeps of the documents, 1/part of their tokens."""

    def answerer(pair: ModelPair, asked: AnsweredQuestion) -> str:
        kept = compress(asked.documents, asked.question, draft=pair, index=index, ratio=1 / part)
        return generate(pair, answer_messages(kept), max_new_tokens=_MAX_NEW_TOKENS).text

    return answerer


def from_paper(part: int) -> Answerer:
    """The answer from a prompt compressed by SpecPC: instruction and question count extra (paper, section 4.2)."""

    def answerer(pair: ModelPair, asked: AnsweredQuestion) -> str:
        prompt = answer_messages(compress(asked.documents, asked.question, draft=pair, ratio=1))
        tokens = len(prompt_ids(pair.tokenizer, prompt))
        count = token_counter("draft", pair.require_tokenizer())
        documents = sum(count(document.text) for document in asked.documents)
        config = SpecPCConfig(max_capacity_prompt=max(tokens - documents + documents // part, 65))
        return generate(pair, prompt, specpc=config, max_new_tokens=_MAX_NEW_TOKENS).text

    return answerer


def answerers() -> dict[str, Answerer]:
    """What a target may answer from, by name; the default's read each document once."""
    index = DocumentIndex(storage="float32")
    return {
        "all documents": from_all_documents,
        "paper, 1/4": from_paper(4),
        "paper, 1/8": from_paper(8),
        "default, 1/4": from_kept(4, index),
        "default, 1/8": from_kept(8, index),
    }


def right_answers(
    pair: ModelPair,
    questions: Sequence[AnsweredQuestion],
    by: Mapping[str, Answerer] | None = None,
    out: Path | None = None,
) -> dict[str, list[bool]]:
    """Per method, which questions the target answers right, greedily and in at most 40 tokens.

    Args:
        pair: draft and target.
        questions: with documents and answers.
        by: methods by name; None takes all.
        out: file to which each answer is appended, and in which answers of an earlier run are looked up; or None.

    Raises:
        UnreadableFileError: `out` holds something else.
        FileNotWrittenError: an answer cannot be written there; those before it are.
    """
    by = answerers() if by is None else by
    known = {} if out is None else dict(read_lines(out, _known_answer))
    right: dict[str, list[bool]] = {name: [] for name in by}
    with steps("Answering", len(questions)) as done:
        for asked in questions:
            for name, answerer in by.items():
                answer = known.get((name, asked.question))
                if answer is None:
                    answer = answerer(pair, asked)
                    append_lines(out, [json.dumps({"method": name, "question": asked.question, "answer": answer})])
                right[name].append(holds_answer(answer, asked.answers))
            done()
    return right


def _known_answer(line: str) -> tuple[tuple[str, str], str]:
    record = json.loads(line)
    return (record["method"], record["question"]), record["answer"]


def right_table(right: Mapping[str, Sequence[bool]]) -> str:
    """Markdown: the share of right answers of each method."""
    count = len(next(iter(right.values())))
    lines = [f"| target's answer right, {count} questions | share |", "|---|---|"]
    for name, hits in right.items():
        low, high = interval(hits)
        lines.append(f"| {name} | {sum(hits) / len(hits):.3f} [{low:.2f}, {high:.2f}] |")
    return "\n".join(lines)
