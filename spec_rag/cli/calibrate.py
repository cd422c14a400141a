"""`spec-rag calibrate`: train the weights of the score for a draft."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spec_rag.cli import console
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.utils.atomic_files import write_whole


def register(app: typer.Typer) -> None:
    app.command()(calibrate)


def calibrate(
    out: Annotated[Path, typer.Option("--out", "-o", help="The JSON file to write.")],
    questions: Annotated[
        list[Path] | None,
        typer.Argument(help="JSON lines: question, documents, and answers or support (default: generated questions)."),
    ] = None,
    draft: console.Draft = None,
    device: console.Device = None,
    generated: Annotated[
        int | None, typer.Option(min=0, help="How many questions to generate (default: 120 without files, else 0).")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read so many questions of each file.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Folder for what was read, from which an interrupted run continues.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the generated questions, the folds and the intervals.")] = 0,
) -> None:
    """Train the weights of the score for a draft, on your own questions, generated ones, or both.

    The draft reads the documents of each question once. The weights are judged by cross-validation, and the file is
    written only if they keep more of the needed sentences than the weights in use. Use the file with `spec-rag
    compress --calibration FILE` or `SpecPCCompressor(calibration="FILE")`.
    """
    console.check_writable(out)
    console.quiet_transformers()
    from spec_rag.calibration.generated_questions import generated_questions
    from spec_rag.calibration.training import TrainingQuestion
    from spec_rag.calibration.training import calibrate as train
    from spec_rag.compression.document_draft import Draft
    from spec_rag.evaluation.questions import read_questions
    from spec_rag.options.compression import CompressionConfig

    asked = [one for path in questions or () for one in read_questions(path, limit)]
    labelled = [TrainingQuestion(q.question, q.documents, q.needed, q.language, q.family) for q in asked]
    if count := generated if generated is not None else 0 if questions else 120:
        made = generated_questions(count, seed)
        labelled += [TrainingQuestion(q.question, q.documents, q.needed, family="generated") for q in made]
    reader = Draft.of(draft or DEFAULT_DRAFT, console.load_options(device), CompressionConfig())
    with console.bar("Questions read") as tell:
        found = train(reader, labelled, seed=seed, folder=resume, tell=tell)
    report = found.report
    typer.echo(f"Needed sentences kept, cross-validated on {report['questions']} questions:")
    for name in ("before", "after"):
        figures = ", ".join(f"{b}: {v:.3f}" for b, v in zip(report["budgets"], report[name], strict=True))
        typer.echo(f"  {name:6} {figures}")
    low, high = report["interval"]
    typer.echo(f"  gain   {report['gain']:+.3f} [{low:+.3f}, {high:+.3f}]")
    if report["gain"] <= 0:
        typer.echo(f"{out} is not written: the new weights are not better than those in use.", err=True)
        raise typer.Exit(1)
    write_whole(out, found.to_json())
    typer.echo(f"{out}: {len(found.unit)} layers of {found.heads} heads, trained on {len(labelled)} questions.")
