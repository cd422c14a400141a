"""`spec-rag ask --context`: files that are read whole, once, and kept for every later question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spec_rag.answering.generators import is_demonstration
from spec_rag.cli import console
from spec_rag.cli.answer_lines import ending_lines, ending_mark, model_line


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
    from spec_rag.answering.answer import answer_from_context, context_of

    with console.progress() as tell:
        tell("Reading files")
        documents = reader.read(files)
        tell("Loading the model")
        console.quiet_transformers()
        from spec_rag.models.model_pair import ModelPair

        pair = ModelPair.load(None, target, target_options=options)
        tell("The model reads the context")
        context = context_of(pair, documents, asked.path, asked.share)
        tell("Answering")

        def emit(piece: str) -> None:
            tell("")
            if not asked.as_json:
                console.say(piece, nl=False)

        answer = answer_from_context(pair, asked.question, context, max_new_tokens=asked.max_new_tokens, emit=emit)
    timings, model = answer.timings, pair.name_of("target") or ""
    if asked.as_json:
        figures = {
            "context_tokens": context.tokens,
            "context_bytes": context.nbytes,
            "seconds": {"prefill": timings.prefill_seconds, "decode": timings.decode_seconds},
        }
        about = {"model": model, "demonstration_model": is_demonstration(model)}
        ending = {"finish_reason": answer.finish_reason}
        console.print_json(
            {"question": asked.question, **about, "answer": answer.text, **ending, **answer.usage, **figures}
        )
        return
    lines = [f"{ending_mark(answer)}\n", model_line(model), *ending_lines(answer)]
    console.say("\n".join(lines))
    console.say(
        f"Context  {context.tokens:,} tokens, {100 * context.settings['kept']:.0f} % of their pairs in "
        f"{asked.path} "
        f"({context.nbytes / 2**20:.1f} MiB)\n"
        f"Seconds  {timings.total_seconds:.1f}: question {timings.prefill_seconds:.1f}, decoding "
        f"{timings.decode_seconds:.1f}"
    )
