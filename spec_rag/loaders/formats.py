"""Which reader reads which file name, and which formats cannot be read. The suffix decides."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from spec_rag.errors import MissingDependencyError, UnreadableFileError
from spec_rag.loaders import plain_text
from spec_rag.loaders.source import Content, SourceFile

Reader = Callable[[SourceFile], Content]

_MARKDOWN = (".md", ".markdown", ".mdx", ".qmd", ".rmd")
_RESTRUCTURED_TEXT = (".rst", ".rest")
# fmt: off
_TEXT = (
    ".txt", ".text", ".log", ".adoc", ".asciidoc", ".org", ".tex", ".bib", ".srt", ".vtt", ".diff", ".patch",
    ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".geojson", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf",
    ".properties", ".xml", ".xsd", ".plist",
    ".py", ".pyi", ".pyx", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".vue", ".svelte", ".java", ".kt", ".kts",
    ".scala", ".groovy", ".gradle", ".clj", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".cs", ".fs", ".vb",
    ".go", ".rs", ".zig", ".swift", ".m", ".mm", ".dart", ".rb", ".php", ".pl", ".pm", ".lua", ".r", ".jl", ".f90",
    ".ex", ".exs", ".erl", ".hs", ".ml", ".lisp", ".el", ".scm", ".sh", ".bash", ".zsh", ".fish", ".ps1", ".bat",
    ".cmd", ".sql", ".graphql", ".proto", ".tf", ".hcl", ".cmake", ".mk", ".css", ".scss", ".less", ".sol", ".asm",
    ".s", ".v", ".sv", ".vhd", ".nix", ".awk",
)
# fmt: on
# suffixes of formats with a module of their own: its name, the name in messages, and the package that it needs
_MODULES: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), ("html", "HTML", "lxml")),
    ".pdf": ("pdf", "PDF", "pypdfium2"),
    ".docx": ("word", ".docx", "python-docx"),
    ".epub": ("epub", ".epub", "lxml"),
    ".ipynb": ("notebook", ".ipynb", "nothing"),
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
SUFFIXES = (*_MARKDOWN, *_RESTRUCTURED_TEXT, *_MODULES, *_TEXT)
"""Files with other suffixes are left out when a folder is read, and read as text when they are named."""

KINDS = "text, Markdown, reStructuredText, HTML, PDF, Word (.docx), EPUB, notebooks, CSV, JSON, YAML and source code"


def reader_of(path: Path) -> Reader:
    """The reader for a file's name.

    Raises:
        UnreadableFileError: the format cannot be read.
        MissingDependencyError: the package for the format is not installed.
    """
    suffix = path.suffix.lower()
    if path.name in ("", "..") or suffix in _REFUSED:
        named = f"files of kind {suffix!r}" if suffix else "this name"
        instead = f"Save it as {_REFUSED[suffix]}." if suffix in _REFUSED else "Give a file."
        raise UnreadableFileError(f"{path}: {named} cannot be read. {instead} Formats that can be read: {KINDS}.")
    if suffix in _MODULES:
        return _from_module(path, *_MODULES[suffix])
    if suffix in _MARKDOWN:
        return plain_text.read_markdown
    if suffix in _RESTRUCTURED_TEXT:
        return plain_text.read_restructured_text
    return plain_text.read_text if suffix in _TEXT else plain_text.read_unknown


def _from_module(path: Path, module: str, kind: str, package: str) -> Reader:
    try:
        reader: Reader = import_module(f"spec_rag.loaders.{module}").read
    except ImportError as error:
        raise MissingDependencyError(f'{path}: reading {kind} needs {package}: pip install "spec-rag[cli]"') from error
    return reader
