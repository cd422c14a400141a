"""Answers as text for a terminal, and as JSON."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spec_rag.answering.generators import is_demonstration
from spec_rag.cli import console

if TYPE_CHECKING:
    from spec_rag.answering.answer import Answered, Support
    from spec_rag.results import Answer


def ending_mark(answer: Answer) -> str:
    """Text after an answer: a mark if it was cut off, a remark if it is empty."""
    if answer.finish_reason in ("length", "repetition"):
        return " […]"
    return "" if answer.text.strip() else "(The model returned no answer.)"


def described(answered: Answered, *, model: bool = True) -> str:
    """Lines below an answer: model, ending, support, tokens and seconds.

    Args:
        answered: the answer with its compression and support.
        model: include the model.
    """
    compression, timings = answered.compression, answered.answer.timings
    lines = [*([model_line(answered.model)] if model else []), *ending_lines(answered.answer)]
    if answered.support is not None:
        label = "Support" if answered.support.matched else "Closest"
        width = max(min(shutil.get_terminal_size().columns, 120), 40)
        quote = textwrap.shorten(answered.support.text, 3 * width, placeholder=" …")
        lines += [f"{label}  {place(answered.support)}"]
        lines += textwrap.wrap(f"“{quote}”", width, initial_indent=" " * 9, subsequent_indent=" " * 9)
    else:
        lines += ["Support  not found in the documents"]
    lines += [
        f"Tokens   {compression.tokens_before:,} → {compression.tokens_after:,} ({100 * compression.ratio:.0f} %) "
        f"of {console.counted(len(compression.documents), 'chunk')}",
        f"Seconds  {answered.seconds:.1f}: compression {compression.draft_seconds:.1f}, look-ahead "
        f"{timings.draft_seconds:.1f}, prefill {timings.prefill_seconds:.1f}, decoding {timings.decode_seconds:.1f}",
    ]
    return "\n".join(lines)


def model_line(model: str) -> str:
    """The model that answered; the default model is marked as a demonstration model."""
    if not is_demonstration(model):
        return f"Model    {model}"
    return (
        f"Model    {model}, a small demonstration model that is often wrong. Give --target MODEL, or --upstream URL "
        "--model NAME, for real answers."
    )


def ending_lines(answer: Answer) -> list[str]:
    """A line if the answer is incomplete."""
    if answer.finish_reason == "length":
        return [f"Cut      after {answer.completion_tokens or 'the maximum number of'} tokens: raise --max-new-tokens."]
    if answer.finish_reason == "repetition":
        return ["Stopped  the model repeated itself."]
    return []


def place(support: Support) -> str:
    """File, page of a PDF, and character range."""
    page = f", page {support.page}" if support.page else ""
    source = "standard input" if support.source == console.STANDARD_INPUT else support.source
    return f"{source}{page}, characters {support.start}-{support.end}"


def answered_record(answered: Answered) -> dict[str, Any]:
    """An Answered as JSON; spans are character ranges in the files."""
    compression, answer = answered.compression, answered.answer
    return {
        "question": compression.query,
        "model": answered.model,
        "demonstration_model": is_demonstration(answered.model),
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
