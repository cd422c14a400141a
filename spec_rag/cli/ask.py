"""`spec-rag ask`: files and a question in; an answer out, with the place where its support stands."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spec_rag.answering.pipeline import DEFAULT_KV_CAPACITY, Answered, Support, answer_from
from spec_rag.cli import console
from spec_rag.cli.ask_context import Asked, ask_context
from spec_rag.cli.compress import (
    ContextAfter,
    ContextBefore,
    Coverage,
    Keep,
    MaxTokens,
    ScoringOption,
    Threshold,
    UnitOption,
    compression_settings,
)
from spec_rag.config import Lookahead, SpecKVConfig
from spec_rag.errors import ConfigError
from spec_rag.models.options import DEFAULT_DRAFT

if TYPE_CHECKING:
    from spec_rag.answering.chunks import Chunk

DEFAULT_BUDGET_TOKENS = 300  # about a quarter of what is retrieved from long files; short ones pass whole

Target = Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M).")]
KVCapacity = Annotated[
    int | None,
    typer.Option(
        help="KV pairs that each head keeps of the prompt; 0 keeps all (default: "
        f"{DEFAULT_KV_CAPACITY}, or all where the target is its own draft, which would write each answer twice).",
        min=0,
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(ask)


def ask(
    files: console.Files,
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    top_k: Annotated[int, typer.Option(help="Chunks to retrieve.", min=1)] = 8,
    chunk_chars: Annotated[
        int, typer.Option("--chunk-chars", "--passage-chars", help="Characters of a chunk, at most.", min=1)
    ] = 900,
    max_tokens: MaxTokens = None,
    ratio: Annotated[float | None, typer.Option(help="Keep at most this share of the tokens.")] = None,
    coverage: Coverage = None,
    preset: console.Preset = None,
    scoring: ScoringOption = None,
    unit: UnitOption = None,
    cascade: console.Cascade = None,
    likelihood: console.Likelihood = None,
    calibration: console.Calibration = None,
    keep: Keep = None,
    context_before: ContextBefore = 0,
    context_after: ContextAfter = 0,
    threshold: Threshold = None,
    kv_capacity: KVCapacity = None,
    lookahead: Annotated[Lookahead, typer.Option(help="Who writes the look-ahead that prunes the KV cache.")] = "auto",
    kv_preset: console.KVPreset = "scaled",
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of the answer, at most.", min=1)] = 80,
    draft: console.Draft = None,
    target: Target = None,
    device: console.Device = None,
    index: console.Index = None,
    encoding: console.Encoding = None,
    max_file_mb: console.MaxFileMB = console.DEFAULT_MB,
    max_file_seconds: console.MaxFileSeconds = console.DEFAULT_SECONDS,
    max_html_depth: console.MaxHtmlDepth = console.DEFAULT_DEPTH,
    context: Annotated[
        Path | None,
        typer.Option(help="Read FILES whole, once, and keep in this file what any question needs of them."),
    ] = None,
    context_share: Annotated[
        float | None, typer.Option(help="With --context: share of the KV pairs that is kept (default: 0.25).")
    ] = None,
    as_json: console.AsJson = False,
) -> None:
    """Answer a question from FILES: split, retrieve, compress, answer.

    With --context, the model reads them whole, and only once: later questions start from that file.

    The answer is printed as it is written, then where its support stands and what it cost. The model reads at most 300
    tokens of the chunks unless --max-tokens, --ratio or --coverage say otherwise.
    """
    if not question.strip():
        raise ConfigError("The question is empty: put it last, in quotes.")
    reader = console.FileReader.of(encoding, max_file_mb, max_file_seconds, max_html_depth)
    if context is not None:
        asked = Asked(question, context, context_share, max_new_tokens, as_json)
        ask_context(asked, files, target or DEFAULT_DRAFT, console.load_options(device), reader)
        return
    if context_share is not None:
        raise ConfigError(f"--context-share {context_share} needs --context FILE.")
    if max_tokens is None and ratio is None and coverage is None:
        max_tokens = DEFAULT_BUDGET_TOKENS
    settings = compression_settings(
        preset=preset,
        max_tokens=max_tokens,
        ratio=ratio,
        coverage=coverage,
        scoring=scoring,
        unit=unit,
        cascade=cascade,
        likelihood=likelihood,
        calibration=calibration,
        keep=keep or (),
        context_before=context_before,
        context_after=context_after,
        threshold=threshold,
    )
    if kv_capacity is None:
        kv_capacity = 0 if (draft or DEFAULT_DRAFT) == (target or DEFAULT_DRAFT) else DEFAULT_KV_CAPACITY
    speckv = (
        SpecKVConfig(max_capacity_prompt=kv_capacity, lookahead=lookahead, preset=kv_preset) if kv_capacity else None
    )
    with console.progress() as tell:
        tell("Reading files")
        chunks = _retrieved(files, question, chunk_chars, top_k, reader)
        tell("Loading the models")
        console.quiet_transformers()
        from spec_rag.compression.index import DocumentIndex
        from spec_rag.models.pair import ModelPair

        options = console.load_options(device)
        pair = ModelPair.load(
            draft or DEFAULT_DRAFT, target or DEFAULT_DRAFT, draft_options=options, target_options=options
        )
        tell(f"The draft reads {console.counted(len(chunks), 'chunk')}")

        def emit(piece: str) -> None:
            tell("")
            if not as_json:
                console.say(piece, nl=False)

        answered = answer_from(
            pair,
            question,
            chunks,
            speckv=speckv,
            max_new_tokens=max_new_tokens,
            index=DocumentIndex(index) if index else None,
            emit=emit,
            **settings,
        )
    if as_json:
        console.print_json(answered_record(answered))
    else:
        console.say("\n\n" + described(answered))


def _retrieved(
    files: list[Path], question: str, chunk_chars: int, top_k: int, reader: console.FileReader
) -> list[Chunk]:
    from spec_rag.answering.chunks import retrieve, split_chunks

    documents = reader.read(files)
    chunks = [chunk for document in documents for chunk in split_chunks(document, chunk_chars)]
    return retrieve(question, chunks, top_k)


def described(answered: Answered) -> str:
    """Lines below an answer: its support, tokens and seconds."""
    compression, timings = answered.compression, answered.answer.timings
    lines = []
    if answered.support is not None:
        label = "Support" if answered.support.matched else "Closest"
        width = max(min(shutil.get_terminal_size().columns, 120), 40)
        quote = textwrap.shorten(answered.support.text, 3 * width, placeholder=" …")
        lines += [f"{label}  {place(answered.support)}"]
        lines += textwrap.wrap(f"“{quote}”", width, initial_indent=" " * 9, subsequent_indent=" " * 9)
    lines += [
        f"Tokens   {compression.tokens_before:,} → {compression.tokens_after:,} ({100 * compression.ratio:.0f} %) "
        f"of {console.counted(len(compression.documents), 'chunk')}",
        f"Seconds  {answered.seconds:.1f}: compression {compression.draft_seconds:.1f}, look-ahead "
        f"{timings.draft_seconds:.1f}, prefill {timings.prefill_seconds:.1f}, decoding {timings.decode_seconds:.1f}",
    ]
    return "\n".join(lines)


def place(support: Support) -> str:
    """File and character range, and the page of a PDF."""
    page = f", page {support.page}" if support.page else ""
    return f"{support.source}{page}, characters {support.start}-{support.end}"


def answered_record(answered: Answered) -> dict[str, Any]:
    """An Answered as JSON says it; spans are character ranges in the files."""
    compression, answer = answered.compression, answered.answer
    return {
        "question": compression.query,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "support": asdict(answered.support) if answered.support else None,
        "tokens_before": compression.tokens_before,
        "tokens_after": compression.tokens_after,
        "ratio": compression.ratio,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "kv_bytes_dense": answer.kv_bytes_dense,
        "kv_bytes_kept": answer.kv_bytes_kept,
        "seconds": {
            "total": answered.seconds,
            "compression": compression.draft_seconds,
            "lookahead": answer.timings.draft_seconds,
            "prefill": answer.timings.prefill_seconds,
            "decode": answer.timings.decode_seconds,
        },
        "chunks": [
            {
                "source": chunk.source.metadata.get("source"),
                "title": chunk.title,
                "start": chunk.source.start,
                "end": chunk.source.end,
                "score": chunk.source.score,
                "text": chunk.text,
                "spans": [[chunk.source.start + a, chunk.source.start + b] for a, b in chunk.spans],
                "tokens_before": chunk.tokens_before,
                "tokens_after": chunk.tokens_after,
            }
            for chunk in compression.documents
        ],
    }
