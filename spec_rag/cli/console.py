"""Shared by the commands: options, file reading, output, progress, log levels."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spec_rag.errors import ConfigError, UnreadableFileError
from spec_rag.loaders.source import ReadLimits
from spec_rag.options.compression import Preset as KVPresetName
from spec_rag.options.loading import LoadOptions
from spec_rag.utils.progress import listening
from spec_rag.utils.terminal import visible

if TYPE_CHECKING:
    from spec_rag.text.documents import Document

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Files (text, Markdown, HTML, PDF, .docx, EPUB, notebooks, data, code) and folders; - is standard input."
    ),
]
Draft = Annotated[str | None, typer.Option(help="Draft model: hub id, folder or .gguf file (default: SmolLM2-135M).")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu (default: the best available).")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of the text files (default: utf-8).")]
MaxFileMB = Annotated[float, typer.Option("--max-file-mb", help="Maximum file size in MiB.")]
MaxFileSeconds = Annotated[float, typer.Option(help="Maximum CPU seconds to read a file.")]
MaxHtmlDepth = Annotated[int, typer.Option(help="Maximum nesting depth of HTML.")]
Index = Annotated[Path | None, typer.Option(help="Folder of encoded documents, reused for later questions.")]
KVPreset = Annotated[
    KVPresetName, typer.Option(help="Parameters of KV pruning: scaled to the capacity, or as published.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print only JSON.")]

Tell = Callable[[str], None]

STANDARD_INPUT = "-"
_FORMATS = (
    (".pdf", re.compile(rb"\s*%PDF-")),
    (".docx", re.compile(rb"PK\x03\x04")),
    (".html", re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|\?xml)", re.IGNORECASE)),
)

_UNPRINTABLE = re.compile("[\x7f-\x9f\ud800-\udfff]")  # escaped in JSON, as json.dumps does below U+0020


@dataclass(frozen=True)
class FileReader:
    """Encoding and limits for reading files."""

    encoding: str | None
    limits: ReadLimits

    @classmethod
    def of(cls, encoding: str | None, megabytes: float, seconds: float, depth: int) -> FileReader:
        """Validate the options.

        Raises:
            ConfigError: a limit is not above 0.
        """
        named = {"--max-file-mb": megabytes, "--max-file-seconds": seconds, "--max-html-depth": depth}
        for name, value in named.items():
            if not value > 0:
                raise ConfigError(f"{name} {value:g}: give a number above 0.")
        return cls(encoding, ReadLimits(max(1, int(megabytes * 2**20)), depth, seconds))

    def read(self, files: Sequence[Path]) -> list[Document]:
        """Read files and folders; unreadable files of a folder are skipped with a warning. "-" is standard input."""
        from spec_rag.loaders.reading import read_files

        documents: list[Document] = []
        named = [path for path in files if str(path) != STANDARD_INPUT]
        if named:
            documents += read_files(named, encoding=self.encoding, limits=self.limits, skipped=warn_skipped)
        if len(named) < len(files):
            documents.append(self._standard_input())
        return documents

    def _standard_input(self) -> Document:
        """Read standard input; the format is detected from the first bytes."""
        from spec_rag.loaders.reading import read_bytes

        if sys.stdin.isatty():
            note("Reading standard input; end with Ctrl-D.")
        data = sys.stdin.buffer.read(int(self.limits.max_bytes) + 1)
        suffix = next((suffix for suffix, pattern in _FORMATS if pattern.match(data)), ".txt")
        name = f"standard input{suffix}"
        document = read_bytes(name, data, encoding=self.encoding, limits=self.limits)
        title = None if document.title == Path(name).stem else document.title
        metadata = {**document.metadata, "source": STANDARD_INPUT}
        return replace(document, title=title, id=STANDARD_INPUT, metadata=metadata)


@dataclass(frozen=True)
class IndexUse:
    """Number of a question's passages that were in the index.

    Attributes:
        found, passages: passages in the index, and all passages.
        folder: folder of the index.
        has_others: whether the index has any passage.
    """

    found: int
    passages: int
    folder: Path
    has_others: bool = False

    @classmethod
    def of(cls, documents: Sequence[Document], draft: Any, index: Any, settings: dict[str, Any]) -> IndexUse:
        """Look up the passages of the documents in a DocumentIndex with a folder."""
        from spec_rag.compression.passage_encoding import indexed_passages
        from spec_rag.options.compression import CompressionConfig

        found, passages = indexed_passages(documents, draft, index, CompressionConfig.from_dict(settings))
        return cls(found, passages, index.folder, any(index.folder.glob("*/*.safetensors")))

    def __str__(self) -> str:
        is_miss = self.passages and not self.found and self.has_others
        why = "; the index was filled with other settings, another draft or other files" if is_miss else ""
        return f"{self.found} of {counted(self.passages, 'passage')} from the index in {self.folder}{why}"


DEFAULT_MB, DEFAULT_SECONDS, DEFAULT_DEPTH = ReadLimits.max_bytes / 2**20, ReadLimits.max_seconds, ReadLimits.max_depth


def be_quiet() -> None:
    """Silence warnings of libraries; errors are still shown."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # idle threads sleep instead of spinning, which is slow on shared cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore")
    for name in ("pypdfium2", "bm25s", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_transformers() -> None:
    """Import transformers and silence it, also if it was imported before `be_quiet`."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@contextmanager
def progress() -> Iterator[Tell]:
    """A status line on stderr if it is a terminal; an empty message hides it."""
    if not sys.stderr.isatty():
        yield lambda message: None
        return
    from rich.console import Console

    with Console(stderr=True).status("Starting") as status:

        def tell(message: str) -> None:
            if message:
                status.update(message)
                status.start()
            else:
                status.stop()

        with listening(lambda what, done, total: tell(f"{what}: {done} of {total}")):
            yield tell


@contextmanager
def bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr if it is a terminal; call the yielded function with steps done and total."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(description, total=None)
        with listening(lambda what, done, total: None):  # suppresses nested bars
            yield lambda done, total: shown.update(task, completed=done, total=total)


def index_record(use: IndexUse) -> dict[str, Any]:
    """An IndexUse as JSON."""
    return {"folder": str(use.folder), "passages": use.passages, "found": use.found}


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 passage, 8 passages."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def say(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Print text for people; control characters are made visible."""
    typer.echo(visible(text), nl=nl, err=err)


def note(text: str) -> None:
    """Print a message on stderr if it is a terminal."""
    if sys.stderr.isatty():
        say(text, err=True)


def print_text(text: str) -> None:
    """Print a text unchanged; on a terminal control characters are made visible."""
    # without color=True, echo strips escape sequences in a pipe
    typer.echo(visible(text) if sys.stdout.isatty() else text, color=True)


def warn_skipped(error: UnreadableFileError) -> None:
    """Print a warning for a skipped file."""
    say(f"skipped: {error}", err=True)


def load_options(device: str | None) -> LoadOptions | None:
    """Load options for --device."""
    return LoadOptions(device=device) if device else None


def print_json(value: Any) -> None:
    """Print only JSON."""
    text = json.dumps(_finite(value), ensure_ascii=False, indent=2, allow_nan=False, default=str)
    typer.echo(_UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text))


def _finite(value: Any) -> Any:
    """Replace NaN and infinity by None."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_writable(path: Path) -> None:
    """Check an output path before any work.

    Raises:
        FileNotFoundError: its folder does not exist.
        IsADirectoryError: it is a folder.
        PermissionError: its folder is not writable.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file to write.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path}: the folder {path.parent} is not writable: give another path.")
