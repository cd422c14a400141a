"""`spec-rag demo`: retrieval, compression and answers on the handbook of examples/, offline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spec_rag.cli import console
from spec_rag.cli.answer_lines import described, ending_mark, model_line

if TYPE_CHECKING:
    from rich.table import Table

    from spec_rag.evaluation.handbook import DemoAnswer, Evaluation, Handbook
    from spec_rag.models.model_pair import ModelPair


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    corpus: Annotated[Path | None, typer.Option(help="Another folder with documents and a questions.json.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Ask all 20 questions and count correct answers.")] = False,
    device: console.Device = None,
) -> None:
    """Answer five questions from a quarter of the retrieved tokens; print answers, tokens and seconds."""
    from spec_rag.evaluation.handbook import evaluate_handbook, load_handbook

    handbook = load_handbook(corpus)
    with console.progress() as tell:
        tell("Loading SmolLM2-135M")
        console.quiet_transformers()
        from spec_rag.models.model_pair import ModelPair

        options = console.load_options(device)
        pair = ModelPair.load(draft_options=options, target_options=options)
        started = time.perf_counter()
        if every:
            evaluation = evaluate_handbook(pair=pair, handbook=handbook, tell=tell)
            answers = evaluation.answers
        else:
            evaluation = None
            answers = _print_answers(pair, handbook, tell)
    from rich.console import Console

    Console().print(_answers_table(answers))
    if answers:
        console.say(model_line(answers[0].answered.model))
    if evaluation is not None:
        typer.echo(_counts(evaluation))
    typer.echo(f"{len(answers)} questions in {time.perf_counter() - started:.0f} seconds.")


def _print_answers(pair: ModelPair, handbook: Handbook, tell: console.Tell) -> list[DemoAnswer]:
    from spec_rag.compression.encoding_cache import DocumentIndex
    from spec_rag.evaluation.handbook import answer_question, demo_questions

    answers: list[DemoAnswer] = []
    index = DocumentIndex()
    for question in demo_questions(handbook):
        tell("")
        typer.echo(f"Question {question.question}")
        tell("The draft reads the retrieved chunks")
        label = ["Answer   "]  # printed with the first piece; before that the line shows the status

        def emit(piece: str, label: list[str] = label) -> None:
            tell("")
            console.say((label.pop() if label else "") + piece, nl=False)

        answers.append(answer_question(pair, handbook, question, index=index, emit=emit))
        answered = answers[-1].answered
        console.say(f"{ending_mark(answered.answer)}\n{described(answered, model=False)}\n")
    return answers


def _answers_table(rows: list[DemoAnswer]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Answered from a quarter of the retrieved tokens", title_justify="left", show_lines=True)
    table.add_column("Question, answer, source", ratio=1, overflow="fold")
    table.add_column("Correct")
    table.add_column("Tokens", justify="right", no_wrap=True)
    table.add_column("Seconds", justify="right", no_wrap=True)
    for row in rows:
        support, compression = row.answered.support, row.answered.compression
        source = f"\n{Path(support.source).name}:{support.start}-{support.end}" if support else ""
        answer = " ".join(row.answered.answer.text.split())
        table.add_row(
            Text.assemble(row.question.question, "\n", (answer, "bold"), (source, "dim")),
            "yes" if row.correct else "no",
            f"{compression.tokens_before:,} → {compression.tokens_after:,}",
            f"{row.answered.seconds:.1f}",
        )
    return table


def _counts(evaluation: Evaluation) -> str:
    of = f"of {evaluation.questions}"
    return "\n".join(
        [
            f"Support retrieved: {evaluation.retrieved} {of}",
            *(f"Answer kept at 1/{1 / ratio:g} of the tokens: {n} {of}" for ratio, n in evaluation.survived.items()),
            f"Correct answers at the first of these ratios: {evaluation.correct} {of}",
        ]
    )
