"""`spec-rag evaluate`: measure what is kept, what is answered, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spec_rag.cli import console
from spec_rag.cli.evaluate_bench import bench, peer_cases, peer_results, peer_timings
from spec_rag.cli.evaluate_run import run_tasks
from spec_rag.errors import ConfigError
from spec_rag.models.options import DEFAULT_DRAFT

if TYPE_CHECKING:
    from spec_rag.evaluation.tasks.multidoc import AnsweredQuestion

QuestionFiles = Annotated[list[Path], typer.Argument(help="Questions with documents: .jsonl or .jsonl.gz.")]
Limit = Annotated[int | None, typer.Option("--questions", help="Only the first so many of each file.", min=1)]
Cost = Literal["ratios", "growth", "index", "storage", "int8", "memory", "batch", "profile", "lookahead", "plan"]

app = typer.Typer(no_args_is_help=True, help="Measure what is kept, what is answered, and what it costs (Markdown).")


def register(commands: typer.Typer) -> None:
    commands.add_typer(app, name="evaluate")


@app.command()
def kept(
    files: QuestionFiles,
    questions: Limit = None,
    skip: Annotated[int, typer.Option(help="Leave the first so many of these out.", min=0)] = 0,
    draft: console.Draft = None,
    embedder: Annotated[str | None, typer.Option(help="Package or folder of a sentence encoder.")] = None,
    variants: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    signals: Annotated[Path | None, typer.Option(help="Folder where what the draft saw is kept between runs.")] = None,
    with_titles: Annotated[bool, typer.Option(help="Count titles into the documents' tokens.")] = False,
    charts: Annotated[Path | None, typer.Option(help="Folder for a picture per file: all that is named.")] = None,
) -> None:
    """How often an answer is still in what is kept, at 1/4, 1/8 and 1/16 of the documents' tokens."""
    from spec_rag.compression.draft import Draft
    from spec_rag.evaluation import run
    from spec_rag.evaluation.chart import draw_kept
    from spec_rag.evaluation.methods.budgets import PARTS

    console.quiet_transformers()
    encoder = run.load_embedder(embedder) if embedder else None
    names = _listed(variants)
    chosen = run.variants_for(draft or DEFAULT_DRAFT, encoder, names)
    reader = Draft.of(draft or DEFAULT_DRAFT)
    for path in files:
        asked = _questions(path, questions, skip)
        found = run.kept_answers(reader, asked, chosen, embedder=encoder, signals=signals, with_titles=with_titles)
        typer.echo(f"\n{path.name}\n\n{run.kept_table(found)}")
        if charts:
            charts.mkdir(parents=True, exist_ok=True)
            name = path.name.split(".")[0]
            # of all, so few that they can be told apart
            points = run.points(found)
            shown = {variant: row[::-1] for variant, row in points.items() if names or variant[0] not in "+-"}
            budgets = [f"1/{part}" for part in reversed(PARTS)]
            draw_kept(f"{name}: answer kept, {len(asked)} questions", budgets, shown, charts / f"{name}.svg")


@app.command()
def kinds(
    draft: console.Draft = None,
    embedder: Annotated[str | None, typer.Option(help="Package or folder of a sentence encoder.")] = None,
    variants: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
) -> None:
    """How often an answer is kept in English, German, Chinese, code and tables: 40 small questions of our own."""
    from spec_rag.compression.draft import Draft
    from spec_rag.evaluation import run
    from spec_rag.evaluation.tasks.kinds import questions_by_kind

    console.quiet_transformers()
    encoder = run.load_embedder(embedder) if embedder else None
    chosen = run.variants_for(draft or DEFAULT_DRAFT, encoder, _listed(variants))
    reader = Draft.of(draft or DEFAULT_DRAFT)
    for kind, asked in questions_by_kind().items():
        typer.echo(f"\n{kind}\n\n{run.kept_table(run.kept_answers(reader, asked, chosen, embedder=encoder))}")


app.command("run")(run_tasks)
app.command()(bench)
app.command()(peer_cases)
app.command()(peer_results)
app.command()(peer_timings)


@app.command()
def answers(
    file: Annotated[Path, typer.Argument(help="JSON lines of questions with documents.")],
    questions: Limit = None,
    draft: console.Draft = None,
    target: Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M).")] = None,
    out: Annotated[Path | None, typer.Option(help="Where answers are kept; a new run goes on from there.")] = None,
) -> None:
    """How often the target answers right: from all documents, from the paper's SpecPC, from the package's default."""
    from spec_rag.evaluation import run
    from spec_rag.models.pair import ModelPair

    console.quiet_transformers()
    pair = ModelPair.load(draft or DEFAULT_DRAFT, target or DEFAULT_DRAFT)
    typer.echo(run.right_table(run.right_answers(pair, _questions(file, questions), out=out)))


@app.command("magic-numbers")
def magic_numbers(
    prompts: Annotated[int, typer.Option(help="How many prompts are generated.", min=1)] = 40,
    window: Annotated[int | None, typer.Option(help="Observation window of every variant but the paper's.")] = None,
    kernel_size: Annotated[int | None, typer.Option(help="Width of their smoothing; odd.")] = None,
    only: Annotated[str | None, typer.Option("--variants", help="Only these, separated by commas.")] = None,
    draft: console.Draft = None,
    target: Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M).")] = None,
) -> None:
    """How many of six hidden numbers a pruned cache still answers with, at 64, 96 and 160 pairs per head."""
    from spec_rag.evaluation.tasks.magic_numbers import lookahead_seconds, magic_numbers_kept, table, variants
    from spec_rag.models.pair import ModelPair

    console.quiet_transformers()
    known = variants(window, kernel_size)
    names = _listed(only) or list(known)
    for name in names:
        if name not in known:
            raise ConfigError(f"variant {name!r} is not one of: {'; '.join(known)}.")
    chosen = {name: known[name] for name in names}
    pair = ModelPair.load(draft or DEFAULT_DRAFT, target or DEFAULT_DRAFT)
    shares = magic_numbers_kept(pair, chosen, prompts=prompts)
    typer.echo(table(shares, prompts, seconds=lookahead_seconds(pair, chosen)))


@app.command()
def schemas(
    count: Annotated[int, typer.Option(help="How many schemas are generated.", min=1)] = 100,
    capacity: Annotated[int, typer.Option(help="KV pairs that each head keeps of the prompt; 0 keeps all.", min=0)] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer, at most.", min=1)] = 160,
    draft: console.Draft = None,
    target: Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M).")] = None,
) -> None:
    """How often an answer that is held to a JSON schema is valid JSON of it."""
    from spec_rag.config import SpecKVConfig
    from spec_rag.evaluation.tasks.schemas import schemas_answered, table
    from spec_rag.models.pair import ModelPair

    console.quiet_transformers()
    pair = ModelPair.load(draft or DEFAULT_DRAFT, target or DEFAULT_DRAFT)
    speckv = SpecKVConfig(max_capacity_prompt=capacity, lookahead="none") if capacity else None
    typer.echo(table(schemas_answered(pair, count, max_new_tokens, speckv)))


@app.command()
def contexts(
    count: Annotated[int, typer.Option(help="How many contexts of four questions are generated.", min=1)] = 40,
    keeps: Annotated[str, typer.Option(help="Shares of the KV pairs, separated by commas.")] = "0.5,0.25,0.125",
    target: Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M).")] = None,
) -> None:
    """How often questions are still answered from a context that was read once and cut; and how soon."""
    from spec_rag.evaluation.tasks import contexts as task
    from spec_rag.models.pair import ModelPair

    console.quiet_transformers()
    pair = ModelPair.load(None, target or DEFAULT_DRAFT)
    shares = [float(keep) for keep in keeps.split(",")]
    typer.echo(task.table(task.contexts_answered(pair, task.contexts(count), shares)))
    typer.echo(task.seconds_table(task.first_token_seconds(pair)))


@app.command()
def speed(
    what: Annotated[Cost, typer.Argument(help="Of questions, of generation, or what spec-rag plan foretells.")],
    files: Annotated[list[Path] | None, typer.Argument(help="Questions, for ratios, storage and int8.")] = None,
    questions: Annotated[int, typer.Option(help="How many of each file.", min=1)] = 5,
    documents: Annotated[
        str | None, typer.Option(help="How many: several numbers for growth (25,50,75,100), one for index (2500).")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Of a document (growth, index) or a prompt.", min=1)] = None,
    embedder: Annotated[str | None, typer.Option(help="Package or folder of an encoder to time beside ratios.")] = None,
    draft: console.Draft = None,
) -> None:
    """Seconds and memory, side by side in one run."""
    from spec_rag.compression.draft import Draft
    from spec_rag.evaluation import decoding_speed, run
    from spec_rag.evaluation import speed as costs
    from spec_rag.evaluation.large_index import large_index
    from spec_rag.evaluation.rounding import rounded

    console.quiet_transformers()
    given = {} if tokens is None else {"tokens": tokens}
    if what == "plan":
        from spec_rag.evaluation.planning.check import as_markdown, checked

        typer.echo(as_markdown(checked(tokens=tokens or 1024)))
        return
    of_generation: dict[str, Callable[..., str]] = {
        "memory": costs.memory,
        "batch": costs.batch,
        "profile": costs.profile,
        "lookahead": decoding_speed.lookahead,
    }
    if what in of_generation:
        typer.echo(of_generation[what](**given))
        return
    reader = Draft.of(draft or DEFAULT_DRAFT)
    if what == "growth":
        typer.echo(costs.growth(reader, _numbers(documents or "25,50,75,100"), tokens or 400))
        return
    if what == "index":
        counts = _numbers(documents or "2500")
        if len(counts) > 1:
            raise ConfigError(f"--documents {documents!r}: an index is filled once, give one number.")
        typer.echo(large_index(reader, counts[0], tokens or 400))
        return
    if not files:
        raise ConfigError(f"{what} needs questions: give files of JSON lines.")
    encoder = run.load_embedder(embedder) if embedder else None
    of_questions: dict[str, Callable[[list[AnsweredQuestion]], str]] = {
        "ratios": lambda asked: costs.ratios(reader, asked, encoder),
        "storage": lambda asked: costs.storage(reader, asked),
        "int8": lambda asked: rounded(reader, Draft.of(draft or DEFAULT_DRAFT, {"quantize": "int8"}), asked),
    }
    for path in files:
        typer.echo(f"\n{path.name}\n\n{of_questions[what](_questions(path, questions))}")


@app.command()
def architectures() -> None:
    """Which decoder-only families of the installed transformers work, each built tiny and tried."""
    import torch

    from spec_rag.evaluation.architectures import as_markdown, families, try_family
    from spec_rag.progress import steps

    console.quiet_transformers()
    torch.set_num_threads(1)
    names = families()
    with steps("Trying", len(names)) as done:
        findings = []
        for name in names:
            findings.append(try_family(name))
            done()
    typer.echo(as_markdown(findings))


def _listed(names: str | None) -> list[str] | None:
    return [name.strip() for name in names.split(",")] if names else None


def _numbers(given: str) -> list[int]:
    try:
        found = [int(part) for part in given.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise ConfigError(f"--documents {given!r}: give whole numbers above 0, such as 25,50.")
    return found


def _questions(path: Path, limit: int | None, skip: int = 0) -> list[AnsweredQuestion]:
    from spec_rag.evaluation.tasks.multidoc import read_questions

    found = read_questions(path, limit)[skip:]
    if not found:
        raise ConfigError(f"--skip {skip} leaves no question of {path}: give a smaller one.")
    return found
