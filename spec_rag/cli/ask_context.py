"""`spec-rag ask --context`: files that are read whole, once, and kept for every later question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from spec_rag.cli import console


@dataclass(frozen=True)
class Asked:
    """A question on a context, and how its answer is to be given."""

    question: str
    path: Path
    share: float | None
    max_new_tokens: int
    as_json: bool


def ask_context(asked: Asked, files: list[Path], target: str, options: Any, reader: console.FileReader) -> None:
    """Answer from the context in the file, which is made of the files where it is not there or of other texts."""
    from spec_rag.answering.contexts import answer_from_context, context_of

    with console.progress() as tell:
        tell("Reading files")
        documents = reader.read(files)
        tell("Loading the model")
        console.quiet_transformers()
        from spec_rag.models.pair import ModelPair

        pair = ModelPair.load(None, target, target_options=options)
        tell("The model reads the context")
        context = context_of(pair, documents, asked.path, asked.share)
        tell("Answering")

        def emit(piece: str) -> None:
            tell("")
            if not asked.as_json:
                console.say(piece, nl=False)

        answer = answer_from_context(pair, asked.question, context, max_new_tokens=asked.max_new_tokens, emit=emit)
    timings = answer.timings
    if asked.as_json:
        figures = {
            "context_tokens": context.tokens,
            "context_bytes": context.nbytes,
            "seconds": {"prefill": timings.prefill_seconds, "decode": timings.decode_seconds},
        }
        console.print_json({"question": asked.question, "answer": answer.text, **answer.usage, **figures})
        return
    typer.echo(
        f"\n\nContext  {context.tokens:,} tokens, {100 * context.settings['kept']:.0f} % of their pairs in "
        f"{asked.path} "
        f"({context.nbytes / 2**20:.1f} MiB)\n"
        f"Seconds  {timings.total_seconds:.1f}: question {timings.prefill_seconds:.1f}, decoding "
        f"{timings.decode_seconds:.1f}"
    )
