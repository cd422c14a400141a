"""The page of results: tables, charts, what was left out, and where a method of the package loses, with the reason.

This module does not know how anything was measured.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tomllib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from benchmarks import grid_tables as tables
from benchmarks.answer_methods import DENSE
from benchmarks.length_chart import draw_lengths
from benchmarks.records import Scored
from benchmarks.results_page import Section, write_page
from benchmarks.runner import SPEED, Bench
from benchmarks.stages import STAGES, Stage
from benchmarks.timings import Timed
from spec_rag.utils.atomic_files import write_whole

TITLE = "Benchmark"
_TIMED_OWN = ("SpecPC", "SpecPC, indexed", "SpecKV", "SpecKV-PC")
_OWN = ("default", "+ embedder", "paper", "SpecKV", "SpecPC", "SpecKV-PC")


def write_report(bench: Bench, path: Path, command: str, stages: Sequence[str]) -> None:
    """Write the page as Markdown with its pictures beside it, and as one HTML file in the folder of results.

    Args:
        bench: where the results are.
        path: of the Markdown page.
        command: what made them, for the page to say.
        stages: names of those that the page is of; one that has no results is told to be left out.
    """
    pictures = path.parent / path.stem
    shown = [stage for stage in STAGES if stage.name in stages]
    timed = [row for row in bench.timed if row.table in stages]
    sections = [*_speed_sections(timed, pictures)] if any(name in stages for name in SPEED) else []
    sections += _quality_sections(bench, shown, pictures)
    about = _about({row.code for row in timed} | {row.code for stage in shown for row in bench.latest(stage)}, command)
    title = TITLE if set(stages) >= {*SPEED, *(stage.name for stage in STAGES)} else f"{TITLE}: {', '.join(stages)}"
    lines = [f"# {title}", "", about, ""]
    for section in sections:
        lines += [f"## {section.heading}", "", section.text, ""]
        lines += [f"![{p.stem}]({p.relative_to(path.parent)})\n" for p in section.pictures]
        lines += [section.table, ""] if section.table else []
    text = "\n".join(lines).replace("\n\n\n", "\n\n").rstrip()
    write_whole(path, f"{text}\n")
    write_page(f"spec-rag: {title}", about, sections, bench.out / "index.html")


def _about(codes: Iterable[str], command: str) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("spec-rag", "torch", "transformers"))
    code = ", ".join(sorted(codes))
    day = datetime.now(UTC).date().isoformat()
    processor = f"{_processor()} ({os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, no GPU)"
    machine = f"{processor}, Python {platform.python_version()}, {versions}"
    return (
        f"{day}, on {machine}, code {code}. Draft: SmolLM2-135M-Instruct, float32. Made by: `{command}`. Intervals are "
        "95%, by bootstrap over examples."
    )


@cache
def _texts() -> dict[str, Any]:
    return tomllib.loads(files("benchmarks").joinpath("bench.toml").read_text(encoding="utf-8"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _quality_sections(bench: Bench, stages: Sequence[Stage], pictures: Path) -> Iterable[Section]:
    for stage in stages:
        rows = bench.latest(stage)
        if not rows:
            yield Section(stage.heading, f"{stage.about} Left out: it was not run.")
            continue
        what = "answers kept" if stage.measure == "kept" else "answers right"
        drawn = tables.draw_grid(rows, pictures / stage.name, what) if len(stage.budgets) > 1 else []
        table = tables.grid_table(rows)
        if stage.measure == "answers":
            table += "\n\n" + "\n\n".join(tables.grid_table(rows, figure) for figure in ("f1", "exact_match"))
        text = [stage.about, _left_out(stage, rows), _losses(stage, rows)]
        yield Section(stage.heading, "\n\n".join(filter(None, text)), table, drawn)


def _left_out(stage: Stage, rows: Sequence[Scored]) -> str:
    """Cells that have fewer examples than they were to have."""
    found = tables.cells(rows)
    short = {
        f"{cell} ({min(counts)})"
        for cell, methods in found.items()
        if (counts := [len(own) for by_budget in methods.values() for own in by_budget.values()])
        and min(counts) < stage.cases
    }
    missing = [
        f"{task} at {tokens:,} tokens"
        for tokens in stage.tokens
        for task in stage.tasks
        if f"{task}, {tokens:,} tokens" not in found
    ]
    said = []
    if short:
        said.append(f"Fewer than {stage.cases} examples, since time ran out: {', '.join(sorted(short))}.")
    if missing:
        said.append(f"Not run, since time ran out: {', '.join(missing)}.")
    return " ".join(said)


def _losses(stage: Stage, rows: Sequence[Scored]) -> str:
    """Where a method of the package is behind another that is none of its own."""
    said = []
    for cell, methods in tables.cells(rows).items():
        for own in (name for name in methods if name in _OWN):
            behind = []
            for budget, values in methods[own].items():
                share = sum(values) / len(values)
                others = {
                    name: sum(scores) / len(scores)
                    for name, by_budget in methods.items()
                    if name not in _OWN
                    and (scores := by_budget.get("1" if name == DENSE else budget))
                    and len(scores) == len(values)  # where time ran out, a method has seen other examples
                }
                best = max(others, key=lambda name: others[name], default=None)
                if best is not None and others[best] > share:
                    behind.append(f"{budget} ({share:.2f}, {best} {others[best]:.2f})")
            if behind:
                said.append(f"{cell}: {own} at {', '.join(behind)}")
    return f"Behind: {'; '.join(said)}. {_texts()['why'][stage.name]}" if said else ""


def _speed_sections(timed: Sequence[Timed], pictures: Path) -> Iterable[Section]:
    compressed = [row for row in timed if row.table == "compression"]
    generated = [row for row in timed if row.table == "generation"]
    if compressed:
        yield Section(
            "Compression: seconds",
            _texts()["compression"],
            _compression_table(compressed),
        )
    if generated:
        pictures.mkdir(parents=True, exist_ok=True)
        yield Section(
            "Generation: time to the first token, tokens per second, bytes of the cache",
            "\n\n".join(filter(None, (_texts()["generation"], _slower(generated)))),
            _generation_table(generated),
            _draw_generation(generated, pictures),
        )
    if not timed:
        yield Section("Speed", "Left out: it was not measured.")


def _slower(rows: Sequence[Timed]) -> str:
    """Which methods take longer than dense until the first token, and why."""
    dense = {row.size: row.figures["first_token_seconds"] for row in rows if row.method == DENSE}
    behind = [
        f"{row.method} at {row.size:,}"
        for row in sorted(rows, key=lambda row: row.size)
        if row.method in _TIMED_OWN and row.size in dense and row.figures["first_token_seconds"] > dense[row.size]
    ]
    return str(_texts()["slower"]).format(methods=", ".join(behind)) if behind else ""


def _compression_table(rows: Sequence[Timed]) -> str:
    sizes = sorted({row.size for row in rows})
    names = list(dict.fromkeys(row.method for row in rows))
    known = {(row.method, row.size): row.figures["seconds"] for row in rows}
    own_joint = {(row.method, row.size): row.figures.get("joint_seconds") for row in rows}
    lines = ["| method | " + " | ".join(f"{size} documents | ratio of joint prefill" for size in sizes) + " |"]
    lines.append("|---|" + "---|---|" * len(sizes))
    for name in names:
        cells = []
        for size in sizes:
            value = known.get((name, size))
            joint = own_joint.get((name, size)) or known.get(("joint prefill", size))
            cells += ["", ""] if value is None or joint is None else [f"{value:.2f}", f"{joint / value:.1f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _generation_table(rows: Sequence[Timed]) -> str:
    lines = [
        "| tokens | method | first token, s | ratio of dense | tokens per second | KV cache, MB |",
        "|---|---|---|---|---|---|",
    ]
    dense = {row.size: row.figures["first_token_seconds"] for row in rows if row.method == DENSE}
    for row in sorted(rows, key=lambda row: row.size):
        first = row.figures["first_token_seconds"]
        plain = row.figures.get("dense_first_token_seconds", dense.get(row.size))
        ratio = "" if plain is None else f"{plain / first:.1f}"
        rest = f"{row.figures['tokens_per_second']:.1f} | {row.figures['kv_bytes'] / 1e6:.0f}"
        lines.append(f"| {row.size:,} | {row.method} | {first:.1f} | {ratio} | {rest} |")
    return "\n".join(lines)


def _draw_generation(rows: Sequence[Timed], pictures: Path) -> list[Path]:
    lengths = sorted({row.size for row in rows})
    names = list(dict.fromkeys(row.method for row in rows))
    drawn = []
    for figure, what, scale in (
        ("first_token_seconds", "seconds to the first token", 1.0),
        ("kv_bytes", "KV cache of the prompt, MB", 1e6),
    ):
        known = {(row.method, row.size): row.figures[figure] / scale for row in rows}
        path = pictures / f"{figure.replace('_', '-')}.png"
        shown = {name: [known.get((name, length)) for length in lengths] for name in names}
        draw_lengths(f"{what[0].upper()}{what[1:]}", what, lengths, shown, path)
        drawn.append(path)
    return drawn
