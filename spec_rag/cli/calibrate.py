"""`spec-rag calibrate`: learn which heads of a draft to trust."""

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
    out: Annotated[Path, typer.Option("--out", "-o", help="The JSON file to write.")],
    draft: console.Draft = None,
    device: console.Device = None,
    questions: Annotated[int, typer.Option(min=1, help="How many questions to generate.")] = 120,
    seed: Annotated[int, typer.Option(help="Of the questions.")] = 0,
) -> None:
    """Learn which heads of a draft to trust, on questions that are generated on the spot.

    Takes as long as reading ten short documents per question. Use the file with `spec-rag compress --calibration FILE`
    or `SpecPCCompressor(calibration="FILE")`; a draft also works without one.
    """
    console.check_writable(out)
    console.quiet_transformers()
    from spec_rag.calibration.training import calibrate as learn
    from spec_rag.compression.document_draft import Draft

    reader = Draft.of(draft or DEFAULT_DRAFT, console.load_options(device), CompressionConfig(likelihood=False))
    with console.bar("Generated questions") as tell:
        found = learn(reader, questions, seed, tell)
    write_whole(out, found.to_json())
    first, last = found.layer_range
    typer.echo(
        f"{out}: {len(found.unit)} heads for units and {len(found.passage)} for passages, in layers {first} to "
        f"{last - 1} of {found.layers}."
    )
