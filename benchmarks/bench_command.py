"""`python -m benchmarks bench`: the benchmark, stage by stage, and its page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from spec_rag.cli import console
from spec_rag.errors import ConfigError
from spec_rag.utils.atomic_files import write_whole


def bench(
    out: Annotated[Path, typer.Option(help="Folder of results; a run that was cut off goes on from there.")],
    data: Annotated[Path | None, typer.Option(help="Folder of questions; without one, generated tasks alone.")] = None,
    embedder: Annotated[str | None, typer.Option(help="Package or folder of a sentence encoder.")] = None,
    stages: Annotated[
        str | None, typer.Option(help="Only these, separated by commas; none writes the page alone.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that measure quality.", min=1)] = 2,
    worker: Annotated[str | None, typer.Option(help="Be one of several: 1/2 takes every other case.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Begin nothing after so many.", min=0)] = None,
    page: Annotated[Path | None, typer.Option(help="Markdown page of the results; pictures lie beside it.")] = None,
) -> None:
    """Quality and speed of the methods and their peers, and a page of results."""
    from benchmarks.report import write_report
    from benchmarks.runner import Bench, run_quality, run_stages, stage_names
    from benchmarks.stages import STAGES

    console.quiet_transformers()
    if data and not data.is_dir():
        raise ConfigError(f"--data {data} is no folder: give one with files of questions, or leave it out.")
    names = stage_names() if stages is None else [name.strip() for name in stages.split(",") if name.strip() != "none"]
    for name in names:
        if name not in stage_names():
            raise ConfigError(f"stage {name!r} is not one of {', '.join(stage_names())}.")
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    own = Bench(out, data, embedder, deadline)
    if worker is not None:
        number, of = _worker(worker)
        out.mkdir(parents=True, exist_ok=True)
        for stage in (stage for stage in STAGES if stage.name in names):
            run_quality(own, stage, number, of)
        return
    run_stages(own, names, workers)
    if page:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_report(own, page, _command(stages if names else None, data), names or stage_names())
        typer.echo(f"{page} and {out / 'index.html'}")


def _command(stages: str | None, data: Path | None) -> str:
    """What the page says that it was made by; the folder's name is nobody's business."""
    if stages is None:
        return "make bench DATA=FOLDER" if data else "make bench"
    return f"python -m benchmarks bench --out FOLDER --stages {stages}" + (" --data FOLDER" if data else "")


def _worker(given: str) -> tuple[int, int]:
    try:
        number, of = map(int, given.split("/"))
    except ValueError:
        number = of = 0
    if not 1 <= number <= of:
        raise ConfigError(f"--worker {given!r}: give one of several, such as 1/2.")
    return number, of


def peer_cases(
    stage: Annotated[str, typer.Argument(help="Stage of the benchmark whose cases are written.")],
    out: Annotated[Path, typer.Option(help="A line of JSON per case, for the peers' runners.")],
    data: Annotated[Path | None, typer.Option(help="Folder of questions.")] = None,
    budgets: Annotated[str | None, typer.Option(help="Only these of the stage's, separated by commas.")] = None,
) -> None:
    """Write the cases of a stage for peers that run in environments of their own."""
    from benchmarks.budgets import budgets_of
    from benchmarks.peer_results import case_lines
    from benchmarks.stages import stage_of
    from spec_rag.compression.document_draft import Draft
    from spec_rag.options.loading import DEFAULT_DRAFT
    from spec_rag.text.token_counting import token_counter

    console.quiet_transformers()
    own = stage_of(stage)
    chosen = budgets.split(",") if budgets else list(own.budgets)
    budgets_of(chosen)
    count = token_counter("draft", Draft.of(DEFAULT_DRAFT).tokenizer)
    made = own.made(data, count)
    if not made:
        raise ConfigError(f"stage {stage!r} needs {own.file}: give its folder as --data.")
    write_whole(out, "".join(f"{line}\n" for line in case_lines(made, chosen, count)))


def peer_timings(
    out: Annotated[Path, typer.Option(help="Lines of JSON, for the peers' runners.")],
    data: Annotated[Path | None, typer.Option(help="Folder of questions; without one, prompts alone.")] = None,
) -> None:
    """Write what peers that run in environments of their own are timed on."""
    from benchmarks.runner import timed_questions
    from benchmarks.timings import peer_lines
    from spec_rag.compression.document_draft import Draft
    from spec_rag.options.loading import DEFAULT_DRAFT

    console.quiet_transformers()
    lines = peer_lines(Draft.of(DEFAULT_DRAFT), timed_questions(data))
    write_whole(out, "".join(f"{line}\n" for line in lines))


def peer_results(
    cases: Annotated[Path, typer.Argument(help="Written by peer-cases.")],
    results: Annotated[Path, typer.Argument(help="Written by a peer's runner.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Written anew; as STAGE.NAME.jsonl in the benchmark's folder, its page shows it."),
    ] = None,
) -> None:
    """Judge what a peer kept or answered."""
    from benchmarks.grid_tables import grid_table
    from benchmarks.peer_results import judged
    from spec_rag.options.loading import DEFAULT_DRAFT

    rows = judged(cases, results, DEFAULT_DRAFT)
    typer.echo(grid_table(rows))
    if out:
        write_whole(out, "".join(f"{row.to_json()}\n" for row in rows))
