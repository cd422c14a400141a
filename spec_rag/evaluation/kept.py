"""Share of questions whose answer survives compression, per variant and budget, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from spec_rag.compression.document_draft import Draft
from spec_rag.errors import ConfigError
from spec_rag.evaluation.case import PARTS, Case, Variant
from spec_rag.evaluation.chart import Point
from spec_rag.evaluation.metrics import holds_answer
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.evaluation.variants import EMBEDDED, VARIANTS
from spec_rag.utils.progress import steps

KeptAnswers = dict[str, list[list[bool]]]
"""Per variant, per question: whether an answer was kept at each budget."""


def variants_for(embedder: Any, names: Sequence[str] | None = None) -> dict[str, Variant]:
    """The named variants; without names all that are possible with or without an embedder.

    Raises:
        ConfigError: a name is unknown.
    """
    known = {**VARIANTS, **(EMBEDDED if embedder is not None else {})}
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
) -> KeptAnswers:
    """Check for every variant and question whether an answer is in the kept text.

    Args:
        draft: the draft.
        questions: with documents and answers.
        variants: by name.
        embedder: for the variants that need one.
        signals: cache folder of draft results between runs, or None.
        with_titles: count titles and numbers as document tokens.
    """
    kept: KeptAnswers = {name: [] for name in variants}
    with steps("Reading", len(questions)) as done:
        for asked in questions:
            case = Case(draft, asked, embedder, signals, with_titles)
            for name, variant in variants.items():
                kept[name].append([holds_answer(text, asked.answers) for text in variant(case)])
            done()
    return kept


def interval(hits: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """95% bootstrap interval of the mean."""
    values = np.asarray(hits, dtype=float)
    if len(values) < 2 or bool((values == values[0]).all()):
        return float(values.mean()), float(values.mean())
    bounds = bootstrap((values,), np.mean, n_resamples=resamples, method="percentile", rng=0).confidence_interval
    return float(bounds.low), float(bounds.high)


def points(kept: KeptAnswers, resamples: int = 2000) -> dict[str, list[Point]]:
    """Share of questions with a kept answer, per variant and budget."""
    return {
        name: [Point(sum(hits) / len(hits), *interval(hits, resamples)) for hits in zip(*rows, strict=True)]
        for name, rows in kept.items()
    }


def kept_table(kept: KeptAnswers, resamples: int = 2000) -> str:
    """Markdown table: a row per variant, a column per budget."""
    count = len(next(iter(kept.values())))
    lines = [
        f"| answer kept, {count} questions | " + " | ".join(f"1/{part}" for part in PARTS) + " |",
        "|---|" + "---|" * len(PARTS),
    ]
    for name, row in points(kept, resamples).items():
        cells = " | ".join(f"{point.share:.3f} [{point.low:.2f}, {point.high:.2f}]" for point in row)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)
