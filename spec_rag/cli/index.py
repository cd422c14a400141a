"""`spec-rag index`: encode files into an index folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spec_rag.cli import console
from spec_rag.cli.compression_options import compression_options, compression_settings
from spec_rag.errors import MissingDependencyError
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.loading import DEFAULT_DRAFT

if TYPE_CHECKING:
    from spec_rag.compression.encoding_cache import DocumentIndex
    from spec_rag.compression.passage_encoding import Indexed
    from spec_rag.text.documents import Document


def register(app: typer.Typer) -> None:
    app.command()(index)


@compression_options("calibration", "language")
def index(
    files: console.Files,
    folder: Annotated[Path, typer.Option("--index", "-i", help="Folder of the index; created if missing.")],
    draft: console.Draft = None,
    device: console.Device = None,
    encoding: console.Encoding = None,
    max_file_mb: console.MaxFileMB = console.DEFAULT_MB,
    max_file_seconds: console.MaxFileSeconds = console.DEFAULT_SECONDS,
    max_html_depth: console.MaxHtmlDepth = console.DEFAULT_DEPTH,
    storage: Annotated[
        str | None,
        typer.Option(help="int4, int8, float16 or float32 (default: as in the folder; int4 for a new folder)."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--ray", help="Number of workers on a Ray cluster or this machine.", min=1)
    ] = None,
    as_json: console.AsJson = False,
    **options: Any,
) -> None:
    """Encode FILES with the draft, for `spec-rag compress --index` and `spec-rag ask --index`.

    Give --calibration and --language as for the questions: they set the number of layers and the boundaries of
    passages.
    Encoded files are skipped; an interrupted run continues.
    """
    from spec_rag.compression.encoding_cache import DocumentIndex

    store = DocumentIndex(folder, memory_bytes=0, storage=storage)  # type: ignore[arg-type]
    documents = console.FileReader.of(encoding, max_file_mb, max_file_seconds, max_html_depth).read(files)
    settings = compression_settings(**options)
    config = CompressionConfig.from_dict(settings)
    if workers is not None:
        indexed = _with_ray(documents, folder, config, draft or DEFAULT_DRAFT, storage, workers, device)
    else:
        indexed = _here(documents, store, config, draft or DEFAULT_DRAFT, device)
    per_thousand = indexed.stored_bytes / indexed.tokens * 1000 if indexed.tokens else 0.0
    if as_json:
        console.print_json(
            {
                "passages": indexed.passages,
                "new_passages": indexed.new_passages,
                "tokens": indexed.tokens,
                "disk_bytes": store.disk_bytes,
                "bytes_per_1000_tokens": per_thousand,
            }
        )
        return
    typer.echo(
        f"{console.counted(indexed.passages, 'passage')} of {indexed.tokens} tokens, {indexed.new_passages} new; "
        f"the folder has {store.disk_bytes / 2**20:.1f} MiB, {per_thousand / 2**20:.1f} MiB per 1,000 tokens."
    )


def _here(
    documents: list[Document], store: DocumentIndex, config: CompressionConfig, draft: str, device: str | None
) -> Indexed:
    with console.progress() as tell:
        tell("Loading the draft")
        console.quiet_transformers()
        from spec_rag.compression.document_draft import Draft
        from spec_rag.compression.passage_encoding import index_documents

        reader = Draft.of(draft, console.load_options(device), config)
    with console.bar("Reading passages") as done:
        return index_documents(documents, reader, store, config, done)


def _with_ray(
    documents: list[Document],
    folder: Path,
    config: CompressionConfig,
    draft: str,
    storage: str | None,
    workers: int,
    device: str | None,
) -> Indexed:
    try:
        from ray_spec_rag.data import index_with_ray
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f'--ray needs {error.name}: pip install "spec-rag[ray]"') from error
    gpus = 1 if (device or "").startswith("cuda") else 0
    indexed: Indexed = index_with_ray(
        documents, folder, draft=draft, config=config, storage=storage, workers=workers, gpus=gpus
    )
    return indexed
