"""`python -m benchmarks run`: tasks by methods by budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spec_rag.cli import console
from spec_rag.errors import ConfigError
from spec_rag.options.loading import DEFAULT_DRAFT

Measured = Literal["kept", "answers"]


def run_tasks(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Questions with documents, or key-value pairs: .jsonl or .jsonl.gz.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks of RULER, separated by commas: niah_single_1 ... qa_2; or all.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a generated prompt, as the draft counts them.", min=1)] = 2048,
    cases: Annotated[int, typer.Option(help="Examples of each task.", min=1)] = 40,
    seed: Annotated[int, typer.Option(help="Another one makes other generated examples.")] = 0,
    questions: Annotated[Path | None, typer.Option(help="Questions with documents, for qa_1 and qa_2.")] = None,
    longbench: Annotated[
        str | None, typer.Option(help="LongBench: the folder of its files, its zip file, or hub to download it.")
    ] = None,
    longbench_tasks: Annotated[str, typer.Option(help="Of its English tasks, separated by commas.")] = "all",
    longbench_tokens: Annotated[
        int, typer.Option(help="Tokens of a context; of a longer one the middle is left out.", min=1)
    ] = 3500,
    measure: Annotated[Measured, typer.Option(help="What is kept, or what the target answers.")] = "kept",
    methods: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    budgets: Annotated[
        str, typer.Option(help="Shares (1/8, 0.1) or numbers of tokens (512), separated by commas.")
    ] = "1/4,1/8,1/16",
    draft: console.Draft = None,
    target: Annotated[str | None, typer.Option(help="Model that answers (default: the draft).")] = None,
    embedder: Annotated[str | None, typer.Option(help="Package or folder of a sentence encoder.")] = None,
    out: Annotated[Path | None, typer.Option(help="A line of JSON per example; a new run goes on from there.")] = None,
    charts: Annotated[Path | None, typer.Option(help="Folder for a PNG per task, and a page of all.")] = None,
) -> None:
    """How much of the answers is in what each method keeps, or how right a target answers, at each budget."""
    from benchmarks import grid, sources
    from benchmarks import grid_tables as tables
    from benchmarks.budgets import budgets_of
    from benchmarks.results_page import Section, write_page
    from spec_rag.compression.document_draft import Draft
    from spec_rag.evaluation.embedders import load_embedder
    from spec_rag.models.model_pair import ModelPair
    from spec_rag.text.token_counting import token_counter

    if not (files or tasks or longbench):
        raise ConfigError("nothing to run: give files of questions, --tasks of RULER, or --longbench.")
    if out:
        console.check_writable(out)
    console.quiet_transformers()
    shares = budgets_of(_listed(budgets))
    encoder = load_embedder(embedder) if embedder else None
    chosen = grid.method_names(measure, encoder, _listed(methods) if methods else None)
    pair = ModelPair.load(draft or DEFAULT_DRAFT, target or draft or DEFAULT_DRAFT) if measure == "answers" else None
    reader = Draft.of(draft or DEFAULT_DRAFT)
    count = token_counter("draft", reader.tokenizer)
    made = []
    if tasks:
        made.append(sources.generated_tasks(_listed(tasks), count, tokens, cases, seed, questions))
    if files:
        made.append(sources.file_tasks(files, cases))
    if longbench:
        made.append(sources.longbench_tasks(_listed(longbench_tasks), longbench, count, longbench_tokens, cases))
    compared = grid.Methods(reader, chosen, shares, pair, encoder, embedder)
    found = [row for own in made for row in grid.run_grid(own, compared, out)]
    table = tables.grid_table(found)
    typer.echo(table)
    if measure == "answers":
        for figure in ("f1", "exact_match"):
            typer.echo(f"\n{tables.grid_table(found, figure)}")
    if charts:
        what = "answers kept" if measure == "kept" else "answers right"
        pictures = tables.draw_grid(found, charts, what)
        about = f"draft {reader.name}" + (f", target {pair.target_name}" if pair else "")
        write_page(f"spec-rag: {what}", about, [Section("By task, method and budget", "", table, pictures)],
                   charts / "index.html")  # fmt: skip


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]
