"""How often the answer survives compression: multi-document question answering, several ways side by side.

    python -m spec_rag.evaluation.multidoc FILE.jsonl[.gz] ... [--embedder NAME] [--ways default,fused] [--evidence DIR]

Prints a Markdown table per file: the share of questions of which an answer stands in the kept text, at 1/4, 1/8 and
1/16 of the documents' tokens, with 95% bootstrap intervals. With --evidence, what the draft saw is kept there: an
interrupted run goes on where it stopped, and a new score is measured in seconds.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spec_rag.calibration import find_calibration
from spec_rag.evaluation.chart import Point, kept_chart
from spec_rag.evaluation.questions import AnsweredQuestion, is_kept, question_file, read_questions
from spec_rag.evaluation.ways import CALIBRATED_WAYS, EMBEDDED_WAYS, PARTS, WAYS, Case, Way
from spec_rag.models import DEFAULT_DRAFT, LoadedModel, load_model

Kept = dict[str, list[list[bool]]]
"""Per way, per question: whether an answer was kept at each budget."""


def evaluate(
    loaded: LoadedModel,
    questions: Sequence[AnsweredQuestion],
    ways: Mapping[str, Way],
    *,
    embedder: Any = None,
    evidence: Path | None = None,
    with_titles: bool = False,
) -> Kept:
    """Try every way on every question.

    Args:
        loaded: the draft.
        questions: with documents and answers.
        ways: by name.
        embedder: for the ways that need one.
        evidence: folder where what the draft saw is kept between runs, or None.
        with_titles: count titles and numbers into the tokens that the budgets are shares of.
    """
    from rich.console import Console
    from rich.progress import track

    kept: Kept = {name: [] for name in ways}
    console = Console(stderr=True)
    for asked in track(questions, "Reading", console=console, disable=not sys.stderr.isatty()):
        case = Case(loaded, asked, embedder, evidence, with_titles)
        for name, way in ways.items():
            kept[name].append([is_kept(text, asked.answers) for text in way(case)])
    return kept


def interval(hits: Sequence[bool], resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the share of hits."""
    chance = random.Random(seed)
    means = sorted(sum(chance.choices(hits, k=len(hits))) / len(hits) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def points(kept: Kept, resamples: int = 2000) -> dict[str, list[Point]]:
    """Per way and budget, the share of questions of which an answer was kept."""
    return {
        name: [Point(sum(hits) / len(hits), *interval(hits, resamples)) for hits in zip(*rows, strict=True)]
        for name, rows in kept.items()
    }


def table(kept: Kept, resamples: int = 2000) -> str:
    """Markdown: a row per way, a column per budget."""
    count = len(next(iter(kept.values())))
    lines = [
        f"| answer kept, {count} questions | " + " | ".join(f"1/{part}" for part in PARTS) + " |",
        "|---|" + "---|" * len(PARTS),
    ]
    for name, row in points(kept, resamples).items():
        cells = " | ".join(f"{point.share:.3f} [{point.low:.2f}, {point.high:.2f}]" for point in row)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def draw(kept: Kept, title: str, path: Path) -> None:
    """Write a chart of the ways that do not only switch a part of the default, as SVG."""
    shown = {name: row[::-1] for name, row in points(kept).items() if name[0] not in "+-"}
    budgets = [f"1/{part}" for part in reversed(PARTS)]
    path.write_text(kept_chart(title, budgets, shown), encoding="utf-8")


def load_embedder(name: str) -> Callable[[list[str]], list[list[float]]]:
    """Mean-pooled sentence embeddings of an encoder's folder, or of a package that has it as MODEL_DIR."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = name if Path(name).is_dir() else str(importlib.import_module(name).MODEL_DIR)
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


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=question_file, nargs="+", metavar="FILE")
    parser.add_argument("--questions", type=int, help="only the first so many of each file")
    parser.add_argument("--skip", type=int, default=0, help="leave the first so many of these out")
    parser.add_argument("--draft", default=DEFAULT_DRAFT)
    parser.add_argument("--embedder", help="package or folder of a sentence encoder, for the ways that need one")
    parser.add_argument("--ways", help=f"of: {', '.join([*WAYS, *CALIBRATED_WAYS, *EMBEDDED_WAYS])}")
    parser.add_argument("--evidence", type=Path, help="folder where what the draft saw is kept")
    parser.add_argument("--with-titles", action="store_true", help="count titles into the documents' tokens")
    parser.add_argument("--charts", type=Path, help="folder for a picture per file")
    given = parser.parse_args(arguments)
    ways = {
        **WAYS,
        **(CALIBRATED_WAYS if find_calibration("shipped", str(given.draft)) else {}),
        **(EMBEDDED_WAYS if given.embedder else {}),
    }
    if given.ways:
        names = [name.strip() for name in given.ways.split(",")]
        unknown = [name for name in names if name not in ways]
        if unknown:
            parser.error(f"--ways: {unknown[0]!r} is not one of {', '.join(ways)}")
        ways = {name: ways[name] for name in names}
    embedder = load_embedder(given.embedder) if given.embedder else None
    loaded = load_model(given.draft)
    for path in given.files:
        questions = read_questions(path, given.questions)[given.skip :]
        if not questions:
            parser.error(f"--skip: {given.skip} leaves no question of {path}")
        print(f"\n{path.name}\n")
        kept = evaluate(
            loaded, questions, ways, embedder=embedder, evidence=given.evidence, with_titles=given.with_titles
        )
        print(table(kept), flush=True)
        if given.charts:
            given.charts.mkdir(parents=True, exist_ok=True)
            name = path.name.split(".")[0]
            draw(kept, f"{name}: answer kept, {len(questions)} questions", given.charts / f"{name}.svg")


if __name__ == "__main__":
    main()
