"""`spec-rag compress`: compress files for a question; prints a table, text, JSON or HTML."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spec_rag.cli import console
from spec_rag.cli.compression_options import compression_options, compression_settings
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.utils.atomic_files import write_whole

if TYPE_CHECKING:
    from spec_rag.report import Compression
    from spec_rag.results import CompressedDocument


def register(app: typer.Typer) -> None:
    app.command()(compress)


@compression_options()
def compress(
    files: console.Files,
    query: Annotated[str, typer.Option("--query", "-q", help="The question.")],
    draft: console.Draft = None,
    device: console.Device = None,
    index: console.Index = None,
    encoding: console.Encoding = None,
    max_file_mb: console.MaxFileMB = console.DEFAULT_MB,
    max_file_seconds: console.MaxFileSeconds = console.DEFAULT_SECONDS,
    max_html_depth: console.MaxHtmlDepth = console.DEFAULT_DEPTH,
    as_json: console.AsJson = False,
    as_text: Annotated[bool, typer.Option("--text", help="Print only the kept text.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write an HTML page with the dropped text greyed out.")] = None,
    **options: Any,
) -> None:
    """Compress FILES for a question.

    Prints a table unless --json, --text or --html is given.
    """
    if as_json and as_text:
        raise ConfigError("--json and --text both set the output format: give one of them.")
    settings = compression_settings(**options)
    if not query.strip():
        raise ConfigError(f"--query {query!r} is empty: give a question.")
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
        kept = f"{compression.tokens_after:,} of {compression.tokens_before:,} tokens kept"
        console.note(f"{kept}; written to {html}")
    else:
        from rich.console import Console

        Console().print(compression)
        if use is not None:
            console.say(f"{use}.")


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
    """A Compression as JSON."""
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
