"""What each group of features of the readout is worth, on families of questions that the weights have not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spec_rag.calibration.training import (
    TrainingExample,
    TrainingQuestion,
    compared,
    cross_validated,
    read_examples,
)
from spec_rag.compression.document_draft import Draft, readout_for
from spec_rag.compression.readout import PLAIN, POOLED, TEXT, Readout
from spec_rag.compression.scoring import unit_scores
from spec_rag.evaluation.questions import read_questions
from spec_rag.options.compression import CompressionConfig

_WORDS = tuple(name for name in TEXT if name.startswith("words"))
_GROUPS: Mapping[str, Sequence[str]] = {
    "- heads, units": ("unit heads",),
    "- heads, passages": ("passage heads",),
    "- all heads": ("unit heads", "passage heads"),
    "- pooled attention": POOLED,
    "- words": _WORDS,
    "- length and place": tuple(name for name in TEXT if name not in _WORDS),
}


def readout_table(draft: Draft, files: Sequence[Path], folder: Path | None, tell: Callable[[int, int], None]) -> str:
    """Needed units kept by a readout trained without the family, with and without each group (Markdown).

    Args:
        draft: the draft.
        files: JSON lines with `family`, of at least three families.
        folder: where features are kept between runs.
        tell: called with the number of questions done and in all.
    """
    asked = [q for path in files for q in read_questions(path)]
    labelled = [TrainingQuestion(q.question, q.documents, q.needed, q.language, q.family) for q in asked]
    examples = read_examples(draft, labelled, folder, tell)
    shipped = readout_for(draft, CompressionConfig())
    known = {name: shipped.weights[name] for name in ("title", "links") if name in shipped.weights}
    no_heads = [[0.0] * shipped.heads for _ in shipped.unit]  # left-out families must not be known
    start = replace(shipped, unit=no_heads, passage=no_heads, weights=known)
    plain = _scores(examples, PLAIN)
    rows = {"attention alone": plain, "readout": cross_validated(examples, start, draft)}
    for name, left_out in _GROUPS.items():
        rows[name] = cross_validated(examples, start, draft, columns=_columns(examples[0], left_out))
    without_links = replace(start, weights={**start.weights, "links": 0.0})
    rows["- title links"] = cross_validated(examples, without_links, draft)
    return "\n".join(
        [
            f"| {len(examples)} questions | 1/4 | 1/8 | 1/16 | mean, difference to attention alone | 95% |",
            "|---|---|---|---|---|---|",
            *(_row(name, compared(examples, plain, scores)) for name, scores in rows.items()),
        ]
    )


def _scores(examples: Sequence[TrainingExample], readout: Readout) -> list[Tensor]:
    return [unit_scores(e.signals, readout, e.heads) for e in examples]


def _columns(example: TrainingExample, left_out: Sequence[str]) -> Tensor:
    """float32 [features]: 0 for those that are left out."""
    heads = example.heads[0, ..., 0].numel()
    names = ["unit heads"] * heads + ["passage heads"] * heads + [*POOLED, *TEXT]
    return torch.tensor([0.0 if name in left_out else 1.0 for name in names])


def _row(name: str, found: Mapping[str, Any]) -> str:
    kept = " | ".join(f"{value:.3f}" for value in found["after"])
    low, high = found["interval"]
    return f"| {name} | {kept} | {found['gain']:+.3f} | [{low:+.3f}, {high:+.3f}] |"
