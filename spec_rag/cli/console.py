"""What the commands share: options, quietness, progress on a terminal, paths that may be written."""

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
        help="Files (text, Markdown, HTML, PDF, .docx, EPUB, notebooks, data, code), folders; - is standard input."
    ),
]
Draft = Annotated[str | None, typer.Option(help="Draft model: hub id, folder or .gguf file (default: SmolLM2-135M).")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu (default: the best there is).")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of the text files (default: utf-8).")]
MaxFileMB = Annotated[float, typer.Option("--max-file-mb", help="Refuse files of more megabytes (MiB).")]
MaxFileSeconds = Annotated[float, typer.Option(help="Refuse files that take more seconds of processor time to read.")]
MaxHtmlDepth = Annotated[int, typer.Option(help="Refuse HTML with more tags open at once.")]
Index = Annotated[Path | None, typer.Option(help="Folder where read documents are kept for the next question.")]
KVPreset = Annotated[
    KVPresetName, typer.Option(help="How the KV pairs to keep are chosen: to fit their number, or as published.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

Tell = Callable[[str], None]

STANDARD_INPUT = "-"
_FORMATS = (
    (".pdf", re.compile(rb"\s*%PDF-")),
    (".docx", re.compile(rb"PK\x03\x04")),
    (".html", re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|\?xml)", re.IGNORECASE)),
)

_UNPRINTABLE = re.compile("[\x7f-\x9f\ud800-\udfff]")  # what JSON may spell out, and does below U+0020 by itself


@dataclass(frozen=True)
class FileReader:
    """How files are read: in which encoding, and how much each may ask for."""

    encoding: str | None
    limits: ReadLimits

    @classmethod
    def of(cls, encoding: str | None, megabytes: float, seconds: float, depth: int) -> FileReader:
        """The reader that the options describe.

        Raises:
            ConfigError: a limit is not above 0.
        """
        named = {"--max-file-mb": megabytes, "--max-file-seconds": seconds, "--max-html-depth": depth}
        for name, value in named.items():
            if not value > 0:
                raise ConfigError(f"{name} {value:g}: give a number above 0.")
        return cls(encoding, ReadLimits(max(1, int(megabytes * 2**20)), depth, seconds))

    def read(self, files: Sequence[Path]) -> list[Document]:
        """The files and what is in the folders; what cannot be read in a folder is told and skipped.

        "-" stands for standard input, which is read once.
        """
        from spec_rag.loaders.reading import read_files

        documents: list[Document] = []
        named = [path for path in files if str(path) != STANDARD_INPUT]
        if named:
            documents += read_files(named, encoding=self.encoding, limits=self.limits, skipped=warn_skipped)
        if len(named) < len(files):
            documents.append(self._standard_input())
        return documents

    def _standard_input(self) -> Document:
        """What is written to standard input, as a document of the format that its first bytes show."""
        from spec_rag.loaders.reading import read_bytes

        if sys.stdin.isatty():
            note("Reading standard input; Ctrl-D ends it.")
        data = sys.stdin.buffer.read(int(self.limits.max_bytes) + 1)
        suffix = next((suffix for suffix, pattern in _FORMATS if pattern.match(data)), ".txt")
        name = f"standard input{suffix}"
        document = read_bytes(name, data, encoding=self.encoding, limits=self.limits)
        title = None if document.title == Path(name).stem else document.title
        metadata = {**document.metadata, "source": STANDARD_INPUT}
        return replace(document, title=title, id=STANDARD_INPUT, metadata=metadata)


@dataclass(frozen=True)
class IndexUse:
    """How many of a question's passages an index held before the question, and how many there are.

    Attributes:
        found, passages: in the index, and in all.
        folder: of the index.
        has_others: it held any passage at all.
    """

    found: int
    passages: int
    folder: Path
    has_others: bool = False

    @classmethod
    def of(cls, documents: Sequence[Document], draft: Any, index: Any, settings: dict[str, Any]) -> IndexUse:
        """Look the passages of the documents up.

        Args:
            documents: that a question is asked about.
            draft: that reads them.
            index: a DocumentIndex with a folder.
            settings: fields of CompressionConfig that the question is asked with.
        """
        from spec_rag.compression.passage_encoding import indexed_passages
        from spec_rag.options.compression import CompressionConfig

        found, passages = indexed_passages(documents, draft, index, CompressionConfig.from_dict(settings))
        return cls(found, passages, index.folder, any(index.folder.glob("*/*.safetensors")))

    def __str__(self) -> str:
        none = self.passages and not self.found and self.has_others
        why = "; it was filled with other settings or another draft, or with other files" if none else ""
        return f"{self.found} of {counted(self.passages, 'passage')} from the index in {self.folder}{why}"


DEFAULT_MB, DEFAULT_SECONDS, DEFAULT_DEPTH = ReadLimits.max_bytes / 2**20, ReadLimits.max_seconds, ReadLimits.max_depth


def be_quiet() -> None:
    """Silence what libraries say while they load and run; errors still come."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # waiting threads sleep: spinning ones slow everything several times when the cores are shared
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore")
    for name in ("pypdfium2", "bm25s", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_transformers() -> None:
    """Silence transformers, also where it was imported before `be_quiet`; imports it."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@contextmanager
def progress() -> Iterator[Tell]:
    """A status line on stderr while work goes on, if stderr is a terminal. An empty message takes it away."""
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
    """A bar on stderr while work goes on, if stderr is a terminal; told how much is done and how much there is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(description, total=None)
        with listening(lambda what, done, total: None):  # one bar is enough
            yield lambda done, total: shown.update(task, completed=done, total=total)


def index_record(use: IndexUse) -> dict[str, Any]:
    """An IndexUse as JSON says it."""
    return {"folder": str(use.folder), "passages": use.passages, "found": use.found}


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 passage, 8 passages."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def say(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Print what people read; control characters of documents and answers are shown, not obeyed."""
    typer.echo(visible(text), nl=nl, err=err)


def note(text: str) -> None:
    """Tell who watches a terminal what was done, on stderr; a script is told nothing."""
    if sys.stderr.isatty():
        say(text, err=True)


def print_text(text: str) -> None:
    """Print a text as it is, but for control characters where it goes to a terminal."""
    # left to itself, echo takes escapes out of what goes into a pipe
    typer.echo(visible(text) if sys.stdout.isatty() else text, color=True)


def warn_skipped(error: UnreadableFileError) -> None:
    """Name a file that was left out on stderr."""
    say(f"skipped: {error}", err=True)


def load_options(device: str | None) -> LoadOptions | None:
    """How models are loaded for a command's --device."""
    return LoadOptions(device=device) if device else None


def print_json(value: Any) -> None:
    """Print JSON and nothing else."""
    text = json.dumps(_finite(value), ensure_ascii=False, indent=2, allow_nan=False, default=str)
    typer.echo(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text))


def _finite(value: Any) -> Any:
    """The value with null in place of numbers that JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_writable(path: Path) -> None:
    """Refuse an output path before any work is done.

    Raises:
        FileNotFoundError: its folder does not exist.
        IsADirectoryError: it is a folder itself.
        PermissionError: its folder may not be written to.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file to write.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path}: the folder {path.parent} may not be written to: give another path.")
