"""`spec-rag compress`: files and a question in; what is kept out, as a table, text, JSON or HTML."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spec_rag.cli import console
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig, Scoring, Unit
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.options.retention import Order
from spec_rag.utils.atomic_files import write_whole

if TYPE_CHECKING:
    from spec_rag.report import Compression
    from spec_rag.results import CompressedDocument

MaxTokens = Annotated[int | None, typer.Option("--max-tokens", "--budget", help="Keep at most so many tokens.")]
Ratio = Annotated[float | None, typer.Option(help="Keep at most this share of the tokens (without any size: 0.25).")]
Coverage = Annotated[float | None, typer.Option(help="Keep the fewest units with this share of the importance.")]
ScoringOption = Annotated[Scoring | None, typer.Option("--scoring", help="How the draft reads the documents.")]
UnitOption = Annotated[Unit | None, typer.Option("--unit", help="What is kept or dropped as a whole.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="Hold what matches: numbers, dates, identifiers, quotes, or a regular expression. Can be given repeatedly."
    ),
]
KeepFirst = Annotated[int, typer.Option(help="Hold so many first units of each document.", min=0)]
KeepLast = Annotated[int, typer.Option(help="Hold so many last units of each document.", min=0)]
ContextBefore = Annotated[int, typer.Option(help="So many units before a kept one join it.", min=0)]
ContextAfter = Annotated[int, typer.Option(help="So many units after a kept one join it.", min=0)]
Threshold = Annotated[float | None, typer.Option(help="Drop units of less importance (0 is average), room or not.")]
DocumentMinTokens = Annotated[int, typer.Option(help="Keep so many tokens of each document, at least.", min=0)]
DocumentMaxTokens = Annotated[int | None, typer.Option(help="Keep so many tokens of each document, at most.", min=1)]
OrderOption = Annotated[Order, typer.Option("--order", help="Of the documents that come out.")]


def register(app: typer.Typer) -> None:
    app.command()(compress)


def compress(
    files: console.Files,
    query: Annotated[str, typer.Option("--query", "-q", help="The question that decides what matters.")],
    max_tokens: MaxTokens = None,
    ratio: Ratio = None,
    coverage: Coverage = None,
    preset: console.Preset = None,
    scoring: ScoringOption = None,
    unit: UnitOption = None,
    cascade: console.Cascade = None,
    likelihood: console.Likelihood = None,
    calibration: console.Calibration = None,
    language: console.Language = "auto",
    keep: Keep = None,
    keep_first: KeepFirst = 0,
    keep_last: KeepLast = 0,
    context_before: ContextBefore = 0,
    context_after: ContextAfter = 0,
    threshold: Threshold = None,
    document_min_tokens: DocumentMinTokens = 0,
    document_max_tokens: DocumentMaxTokens = None,
    order: OrderOption = "given",
    draft: console.Draft = None,
    device: console.Device = None,
    index: console.Index = None,
    encoding: console.Encoding = None,
    max_file_mb: console.MaxFileMB = console.DEFAULT_MB,
    max_file_seconds: console.MaxFileSeconds = console.DEFAULT_SECONDS,
    max_html_depth: console.MaxHtmlDepth = console.DEFAULT_DEPTH,
    as_json: console.AsJson = False,
    as_text: Annotated[bool, typer.Option("--text", help="Print the kept text and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with kept text dark and dropped text pale.")] = None,
) -> None:
    """Keep of FILES what matters for a question.

    Without --json, --text or --html, prints a short table.
    """
    if as_json and as_text:
        raise ConfigError("--json and --text both decide what is printed: give one of them.")
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
        language=language,
        keep=keep or (),
        keep_first=keep_first,
        keep_last=keep_last,
        context_before=context_before,
        context_after=context_after,
        threshold=threshold,
        document_min_tokens=document_min_tokens,
        document_max_tokens=document_max_tokens,
        order=order,
    )
    if not query.strip():
        raise ConfigError(f"--query {query!r} is empty: compression is guided by a question, so give one.")
    reader = console.FileReader.of(encoding, max_file_mb, max_file_seconds, max_html_depth)
    if html is not None:
        console.check_writable(html)
    with console.progress() as tell:
        compression, use = _compressed(files, query, settings, draft, device, index, reader, tell)
    if html is not None:
        write_whole(html, compression.to_html())
    if as_json:
        record = compression_record(compression)
        console.print_json(record if use is None else {**record, "index": console.index_record(use)})
    elif as_text:
        console.print_text(compression.text)
    elif html is not None:
        kept = f"{compression.tokens_after:,} of {compression.tokens_before:,} tokens are kept"
        console.note(f"{kept}: the page is {html}")
    else:
        from rich.console import Console

        Console().print(compression)
        if use is not None:
            console.say(f"{use}.")


def compression_settings(**given: Any) -> dict[str, Any]:
    """Fields of CompressionConfig of the options that were given, checked before any model is loaded."""
    settings = {name: value for name, value in given.items() if value is not None}
    if settings.get("calibration") == "none":
        settings["calibration"] = None
    config = CompressionConfig.from_dict(settings)
    values = {field.name: getattr(config, field.name) for field in fields(CompressionConfig)}
    return {name: value for name, value in values.items() if value != getattr(CompressionConfig, name)}


def _compressed(
    files: list[Path],
    query: str,
    settings: dict[str, Any],
    draft: str | None,
    device: str | None,
    index: Path | None,
    reader: console.FileReader,
    tell: console.Tell,
) -> tuple[Compression, console.IndexUse | None]:
    tell("Reading files")
    documents = reader.read(files)
    tell("Loading the draft")
    console.quiet_transformers()
    from spec_rag.compression.compress import compress as compress_documents
    from spec_rag.compression.document_draft import Draft
    from spec_rag.compression.encoding_cache import DocumentIndex

    loaded = Draft.of(draft or DEFAULT_DRAFT, console.load_options(device), CompressionConfig.from_dict(settings))
    tell(f"The draft reads {console.counted(len(documents), 'document')}")
    store = DocumentIndex(index) if index else None
    use = console.IndexUse.of(documents, loaded, store, settings) if store is not None else None
    return compress_documents(documents, query, draft=loaded, index=store, **settings), use


def compression_record(compression: Compression) -> dict[str, Any]:
    """A Compression as JSON says it."""
    return {
        "query": compression.query,
        "draft": compression.draft,
        "draft_seconds": compression.draft_seconds,
        "budget_tokens": compression.budget_tokens,
        "tokens_before": compression.tokens_before,
        "tokens_after": compression.tokens_after,
        "ratio": compression.ratio,
        "over_budget": compression.over_budget,
        "settings": dict(compression.settings),
        "text": compression.text,
        "documents": [_document_record(document) for document in compression.documents],
    }


def _document_record(document: CompressedDocument) -> dict[str, Any]:
    metadata = getattr(document.source, "metadata", None) or {}
    return {
        "source": metadata.get("source"),
        "title": document.title,
        "text": document.text,
        "spans": [list(span) for span in document.spans],
        "tokens_before": document.tokens_before,
        "tokens_after": document.tokens_after,
        "units": [asdict(unit) for unit in document.units],
    }
