"""`spec-rag evaluate`: measure kept answers, correct answers and seconds on a user's questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from spec_rag.cli import console
from spec_rag.errors import ConfigError
from spec_rag.options.loading import DEFAULT_DRAFT

if TYPE_CHECKING:
    from spec_rag.evaluation.questions import AnsweredQuestion

QuestionFiles = Annotated[list[Path], typer.Argument(help="Questions with documents, .jsonl or .jsonl.gz.")]
Limit = Annotated[int | None, typer.Option("--questions", help="Number of questions per file (default: all).", min=1)]

_MOVED = (
    "run", "bench", "peer-cases", "peer-results", "peer-timings", "kinds", "magic-numbers", "schemas", "contexts",
    "architectures",
)  # fmt: skip


class _EvaluateCommands(TyperGroup):
    """The group of measurements; names the new location of moved commands."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _MOVED:
            raise ConfigError(
                f"evaluate {cmd_name}: this command is not in the wheel. Run `python -m benchmarks {cmd_name}` "
                "in a clone of the repository."
            )
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=_EvaluateCommands,
    no_args_is_help=True,
    help="Measure kept answers, correct answers and seconds on your own questions (prints Markdown).",
)


def register(commands: typer.Typer) -> None:
    commands.add_typer(app, name="evaluate")


@app.command()
def kept(
    files: QuestionFiles,
    questions: Limit = None,
    skip: Annotated[int, typer.Option(help="Number of questions to skip at the start.", min=0)] = 0,
    draft: console.Draft = None,
    embedder: Annotated[str | None, typer.Option(help="Package or folder of a sentence encoder.")] = None,
    variants: Annotated[str | None, typer.Option(help="Comma-separated names (default: all).")] = None,
    signals: Annotated[Path | None, typer.Option(help="Cache folder of draft results between runs.")] = None,
    with_titles: Annotated[bool, typer.Option(help="Count titles as document tokens.")] = False,
    charts: Annotated[Path | None, typer.Option(help="Folder for a chart per file.")] = None,
) -> None:
    """Share of questions whose answer is in the kept text, at 1/4, 1/8 and 1/16 of the tokens."""
    from spec_rag.compression.document_draft import Draft
    from spec_rag.evaluation import kept as run
    from spec_rag.evaluation.case import PARTS
    from spec_rag.evaluation.chart import draw_kept
    from spec_rag.evaluation.embedders import load_embedder

    console.quiet_transformers()
    encoder = load_embedder(embedder) if embedder else None
    names = _listed(variants)
    chosen = run.variants_for(encoder, names)
    reader = Draft.of(draft or DEFAULT_DRAFT)
    for path in files:
        answered = _questions(path, questions, skip)
        results = run.kept_answers(reader, answered, chosen, embedder=encoder, signals=signals, with_titles=with_titles)
        typer.echo(f"\n{path.name}\n\n{run.kept_table(results)}")
        if charts:
            charts.mkdir(parents=True, exist_ok=True)
            name = path.name.split(".")[0]
            points = run.points(results)
            shown = {variant: row[::-1] for variant, row in points.items() if names or variant[0] not in "+-"}
            budgets = [f"1/{part}" for part in reversed(PARTS)]
            draw_kept(f"{name}: answer kept, {len(answered)} questions", budgets, shown, charts / f"{name}.svg")


@app.command()
def answers(
    file: Annotated[Path, typer.Argument(help="JSON lines of questions with documents.")],
    questions: Limit = None,
    draft: console.Draft = None,
    target: Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M).")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON lines of answers; an interrupted run continues.")] = None,
) -> None:
    """Share of correct answers from all documents, from SpecPC as in the paper, and from compressed documents."""
    from spec_rag.evaluation.answers import right_answers, right_table
    from spec_rag.models.model_pair import ModelPair

    console.quiet_transformers()
    pair = ModelPair.load(draft or DEFAULT_DRAFT, target or DEFAULT_DRAFT)
    typer.echo(right_table(right_answers(pair, _questions(file, questions), out=out)))


@app.command()
def gate(
    file: Annotated[Path, typer.Argument(help="JSON lines of questions with documents and answers.")],
    budget: Annotated[float, typer.Option(help="Tokens that are kept of a question's documents; below 1, a share.")],
    margin: Annotated[float, typer.Option(help="Difference of shares that counts as equal.")] = 0.02,
    questions: Limit = None,
    draft: console.Draft = None,
    target: Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M).")] = None,
    out: Annotated[Path | None, typer.Option(help="Where answers are kept; a new run goes on from there.")] = None,
) -> None:
    """Are answers from compressed documents as good as from all of them? Exit code 0: yes, 1: no, 3: undecided."""
    from spec_rag.evaluation.answers import from_all_documents, from_budget, right_answers
    from spec_rag.evaluation.gate import paired_verdict
    from spec_rag.models.model_pair import ModelPair

    paired_verdict([True], [True], margin)  # a wrong margin is refused before anything is loaded
    name = f"compressed to {budget:g}"
    answerers = {"all documents": from_all_documents, name: from_budget(budget)}
    console.quiet_transformers()
    asked = _questions(file, questions)
    pair = ModelPair.load(draft or DEFAULT_DRAFT, target or DEFAULT_DRAFT)
    right = right_answers(pair, asked, answerers, out=out)
    verdict = paired_verdict(right["all documents"], right[name], margin)
    typer.echo(str(verdict))
    raise typer.Exit({"equivalent": 0, "different": 1, "undecided": 3}[verdict.outcome])


@app.command()
def speed(
    files: QuestionFiles,
    questions: Annotated[int, typer.Option(help="Number of timed questions per file.", min=1)] = 5,
    embedder: Annotated[str | None, typer.Option(help="Package or folder of a sentence encoder, also timed.")] = None,
    draft: console.Draft = None,
) -> None:
    """Seconds of compress(), cold and indexed, compared with one prompt of all documents."""
    from spec_rag.compression.document_draft import Draft
    from spec_rag.evaluation.embedders import load_embedder
    from spec_rag.evaluation.speed import ratios

    console.quiet_transformers()
    reader = Draft.of(draft or DEFAULT_DRAFT)
    encoder = load_embedder(embedder) if embedder else None
    for path in files:
        typer.echo(f"\n{path.name}\n\n{ratios(reader, _questions(path, questions), encoder)}")


def _listed(names: str | None) -> list[str] | None:
    return [name.strip() for name in names.split(",")] if names else None


def _questions(path: Path, limit: int | None, skip: int = 0) -> list[AnsweredQuestion]:
    from spec_rag.evaluation.questions import read_questions

    questions = read_questions(path, limit)[skip:]
    if not questions:
        raise ConfigError(f"--skip {skip} leaves no question of {path}: give a smaller number.")
    return questions
