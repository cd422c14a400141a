"""Files to documents, one by one or by folder. The suffix selects the reader.

A document's text is the content of its file, so that character ranges found later point into it. For text formats it is
exactly what `open(path).read()` returns. README and docs list the formats; `docs/files.md` says what each reader leaves
out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path

from spec_rag.errors import MissingDependencyError, UnreadableFileError
from spec_rag.loaders import plain_text
from spec_rag.loaders.folders import FoundFile, PathLike, Skipped, find_inside, find_named_file, list_folder
from spec_rag.loaders.limits import ReadLimits, check_size, clock
from spec_rag.loaders.source import Content, SourceFile
from spec_rag.text.documents import Document

Reader = Callable[[SourceFile], Content]

_MARKDOWN = (".md", ".markdown", ".mdx", ".qmd", ".rmd")
_RESTRUCTURED = (".rst", ".rest")
_TEXT = tuple(
    [".txt", ".text", ".log", ".adoc", ".asciidoc", ".org", ".tex", ".bib", ".srt", ".vtt", ".diff", ".patch", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".geojson", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".properties", ".xml", ".xsd", ".plist", ".py", ".pyi", ".pyx", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".vue", ".svelte", ".java", ".kt", ".kts", ".scala", ".groovy", ".gradle", ".clj", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".cs", ".fs", ".vb", ".go", ".rs", ".zig", ".swift", ".m", ".mm", ".dart", ".rb", ".php", ".pl", ".pm", ".lua", ".r", ".jl", ".f90", ".ex", ".exs", ".erl", ".hs", ".ml", ".lisp", ".el", ".scm", ".sh", ".bash", ".zsh", ".fish", ".ps1", ".bat", ".cmd", ".sql", ".graphql", ".proto", ".tf", ".hcl", ".cmake", ".mk", ".css", ".scss", ".less", ".sol", ".asm", ".s", ".v", ".sv", ".vhd", ".nix", ".awk"]
)
# suffixes of formats with a module of their own: its name, the name in messages, and the package that it needs
_MODULES: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), ("html", "HTML", "lxml")),
    ".pdf": ("pdf", "PDF", "pypdfium2"),
    ".docx": ("word", ".docx", "python-docx"),
}
# formats that no reader understands, and what to save such a file as
_REFUSED = {
    **dict.fromkeys((".doc", ".odt", ".rtf", ".pages", ".wpd", ".dot", ".docm", ".dotx"), ".docx or PDF"),
    **dict.fromkeys((".ppt", ".pptx", ".odp", ".key", ".djvu", ".ps", ".eps", ".xps", ".mobi", ".azw3"), "PDF"),
    **dict.fromkeys((".xls", ".xlsx", ".ods", ".numbers", ".parquet", ".db", ".sqlite"), ".csv"),
    **dict.fromkeys((".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".tgz"), "a folder of files"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".heic"), "PDF with text"),
    **dict.fromkeys((".mp3", ".wav", ".ogg", ".m4a", ".flac", ".mp4", ".mkv", ".avi", ".mov", ".webm"), "text"),
    **dict.fromkeys((".exe", ".dll", ".so", ".dylib", ".bin", ".o", ".a", ".class", ".jar", ".pyc", ".whl"), "text"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".safetensors", ".gguf", ".onnx", ".npy", ".npz"), "text"),
}
SUFFIXES = (*_MARKDOWN, *_RESTRUCTURED, *_MODULES, *_TEXT)
KINDS = "text, Markdown, reStructuredText, HTML, PDF, Word (.docx), CSV, JSON, YAML and source code"

_LIMITS = ReadLimits()


def read_file(path: PathLike, *, encoding: str | None = None, limits: ReadLimits = _LIMITS) -> Document:
    """Read one file. If the path is a link, the link is followed.

    Args:
        path: the file. A suffix that is not in `SUFFIXES` is read as text.
        encoding: of text formats and HTML; None is UTF-8 (or UTF-16 with its mark), and for HTML the declared one.
        limits: see `ReadLimits`.

    Returns:
        A document with its own title (heading, <title>, properties) or else the file stem, and metadata
        {"source": path}. A PDF also has "page_starts", the index of the first character of each page.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: no text can be read from it; the message says why and what to do.
        MissingDependencyError: the package for its format is not installed.
    """
    found = find_named_file(path)
    if found.real_path.is_dir():
        raise UnreadableFileError(f"{path} is a folder: read it with read_files().")
    return _read_found(found, encoding, limits)


def read_bytes(name: PathLike, data: bytes, *, encoding: str | None = None, limits: ReadLimits = _LIMITS) -> Document:
    """Read the content of a file of that name, which need not exist; see `read_file`.

    Raises:
        UnreadableFileError: no text can be read from it; the message says why and what to do.
        MissingDependencyError: the package for its format is not installed.
    """
    path = Path(name)
    reader = _reader(path)
    check_size(path, len(data), limits)
    content = reader(SourceFile(path, data, encoding, limits, clock(path, limits)))
    if not content.text.strip():
        raise UnreadableFileError(f"{path} holds no text.")
    metadata = {"source": str(path), **content.metadata}
    return Document(content.text, title=content.title or path.stem, id=str(path), metadata=metadata)


def read_files(
    paths: Iterable[PathLike],
    *,
    encoding: str | None = None,
    skipped: Skipped | None = None,
    limits: ReadLimits = _LIMITS,
    within: Sequence[PathLike] | None = None,
) -> list[Document]:
    """Read files, and folders recursively in alphabetical order. A file given twice is read once.

    Inside folders, hidden files and files with other suffixes than `SUFFIXES` are left out. Links inside a folder that
    lead out of it are never followed.

    Args:
        paths: files and folders.
        encoding: see `read_file`.
        skipped: called with the error of each file inside a folder that cannot be read, which is then left out; None
            raises the error. A file that is named in `paths` always raises.
        limits: see `ReadLimits`; they hold for each file.
        within: folders outside of which nothing is read. `paths` are then relative to one of them. None reads `paths`
            from anywhere.

    Raises:
        FileNotFoundError: a path does not exist.
        UnreadableFileError: a file has no readable text, is outside `within`, or a folder has no readable file.
    """
    documents: dict[Path, Document] = {}
    roots = None if within is None else [Path(folder) for folder in within]
    for given in paths:
        named = find_named_file(given) if roots is None else find_inside(roots, given)
        is_folder = named.real_path.is_dir()
        for found in _files_in(named, skipped or _raise) if is_folder else [named]:
            if found.real_path in documents:
                continue
            try:
                documents[found.real_path] = _read_found(found, encoding, limits)
            except UnreadableFileError as error:
                if skipped is None or not is_folder:
                    raise
                skipped(error)
    if not documents:
        raise UnreadableFileError("None of the given files could be read.")
    return list(documents.values())


def _raise(error: UnreadableFileError) -> None:
    raise error


def _files_in(folder: FoundFile, skipped: Skipped) -> Sequence[FoundFile]:
    found = list_folder(folder.path, SUFFIXES, skipped, root=folder.folder)
    if not found:
        raise UnreadableFileError(f"{folder.path} holds no file that can be read: {KINDS}.")
    return found


def _read_found(found: FoundFile, encoding: str | None, limits: ReadLimits) -> Document:
    _reader(found.path)
    try:
        with found.open() as file:
            data = file.read(int(limits.max_bytes) + 1)
    except OSError as error:
        raise UnreadableFileError(f"{found.path} cannot be read: {error.strerror or error}.") from error
    return read_bytes(found.path, data, encoding=encoding, limits=limits)


def _reader(path: Path) -> Reader:
    """The reader for a file's name.

    Raises:
        UnreadableFileError: there is none.
        MissingDependencyError: the package for its format is not installed.
    """
    suffix = path.suffix.lower()
    if path.name in ("", "..") or suffix in _REFUSED:
        named = f"files of kind {suffix!r}" if suffix else "this name"
        instead = f"Save it as {_REFUSED[suffix]}." if suffix in _REFUSED else "Give a file."
        raise UnreadableFileError(f"{path}: {named} cannot be read. {instead} Formats that can be read: {KINDS}.")
    if suffix in _MODULES:
        module, kind, package = _MODULES[suffix]
        try:
            reader: Reader = import_module(f"spec_rag.loaders.{module}").read
        except ImportError as error:
            raise MissingDependencyError(
                f'{path}: reading {kind} needs {package}: pip install "spec-rag[cli]"'
            ) from error
        return reader
    if suffix in _MARKDOWN:
        return plain_text.read_markdown
    if suffix in _RESTRUCTURED:
        return plain_text.read_restructured_text
    return plain_text.read_text if suffix in _TEXT else plain_text.read_unknown
