"""`spec-rag calibrate`: learn weights of a draft's attention heads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spec_rag.cli import console
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.utils.atomic_files import write_whole


def register(app: typer.Typer) -> None:
    app.command()(calibrate)


def calibrate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Output JSON file.")],
    draft: console.Draft = None,
    device: console.Device = None,
    questions: Annotated[int, typer.Option(min=1, help="Number of generated questions.")] = 120,
    seed: Annotated[int, typer.Option(help="Random seed of the questions.")] = 0,
) -> None:
    """Learn weights of a draft's attention heads from generated questions.

    The draft reads ten short documents per question. Use the file with `spec-rag compress --calibration FILE` or
    `SpecPCCompressor(calibration="FILE")`. Calibration is optional.
    """
    console.check_writable(out)
    console.quiet_transformers()
    from spec_rag.calibration.training import calibrate as learn
    from spec_rag.compression.document_draft import Draft

    reader = Draft.of(draft or DEFAULT_DRAFT, console.load_options(device), CompressionConfig(likelihood=False))
    with console.bar("Generated questions") as tell:
        weights = learn(reader, questions, seed, tell)
    write_whole(out, weights.to_json())
    first, last = weights.layer_range
    typer.echo(
        f"{out}: {len(weights.unit)} heads for units and {len(weights.passage)} for passages, in layers {first} to "
        f"{last - 1} of {weights.layers}."
    )
