"""Files into documents: .txt, .md, .html, .pdf and .docx, alone or in folders.

A document's text is what the file says and nothing more, so that character ranges found later point into it. For text
and Markdown it is exactly what `open(path).read()` gives. This module does not know passages or models.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from spec_rag.answering.limits import ReadLimits, check_size, clock
from spec_rag.errors import MissingDependencyError, UnreadableFileError
from spec_rag.text.documents import Document

PathLike = str | Path
Skipped = Callable[[UnreadableFileError], None]

_TEXT_SUFFIXES = (".txt", ".text")
_MARKDOWN_SUFFIXES = (".md", ".markdown")
_HTML_SUFFIXES = (".html", ".htm", ".xhtml")
_PDF_SUFFIXES = (".pdf",)
_WORD_SUFFIXES = (".docx",)
SUFFIXES = _TEXT_SUFFIXES + _MARKDOWN_SUFFIXES + _HTML_SUFFIXES + _PDF_SUFFIXES + _WORD_SUFFIXES

_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(\S.*)$", re.MULTILINE)
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


_LIMITS = ReadLimits()


def read_file(path: PathLike, *, encoding: str | None = None, limits: ReadLimits = _LIMITS) -> Document:
    """Read one file.

    Args:
        path: a file whose suffix is one of `SUFFIXES`.
        encoding: of text, Markdown and HTML; None reads UTF-8 (or UTF-16 with its mark), and HTML as it declares.
        limits: how large and how deep it may be, and how long it may take.

    Returns:
        A document with the first heading, <title> or file stem as its title, and metadata {"source": path}; of a PDF
        also "page_starts", the character at which each page begins.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: no text can be read from it; the message says why and what to do.
        MissingDependencyError: the reader of its format is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder. Check the path.")
    if path.is_dir():
        raise UnreadableFileError(f"{path} is a folder: read it with read_files().")
    _check_suffix(path)
    if not path.is_file():
        raise UnreadableFileError(f"{path} is a device or a pipe: give a file.")
    try:
        with path.open("rb") as file:
            data = file.read(int(limits.max_bytes) + 1)
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be opened: {error.strerror or error}.") from error
    return read_bytes(path, data, encoding=encoding, limits=limits)


def read_bytes(name: PathLike, data: bytes, *, encoding: str | None = None, limits: ReadLimits = _LIMITS) -> Document:
    """Read what stands in a file of that name, which need not exist; see `read_file`.

    Raises:
        UnreadableFileError: no text can be read from it; the message says why and what to do.
        MissingDependencyError: the reader of its format is not installed.
    """
    path = Path(name)
    suffix = _check_suffix(path)
    check_size(path, len(data), limits)
    metadata: dict[str, object] = {"source": str(path)}
    if suffix in _PDF_SUFFIXES:
        text, metadata["page_starts"] = _pdf_text(path, data, clock(path, limits))
        title = None
    elif suffix in _WORD_SUFFIXES:
        title, text = _word_text(path, data, limits)
    elif suffix in _HTML_SUFFIXES:
        title, text = _html_text(path, data, encoding, limits)
    else:
        text = _decoded(path, data, encoding)
        title = _first_heading(text) if suffix in _MARKDOWN_SUFFIXES else None
    if not text.strip():
        raise UnreadableFileError(f"{path} holds no text.")
    return Document(text, title=title or path.stem, id=str(path), metadata=metadata)


def read_files(
    paths: Iterable[PathLike],
    *,
    encoding: str | None = None,
    skipped: Skipped | None = None,
    limits: ReadLimits = _LIMITS,
) -> list[Document]:
    """Read files, and folders recursively in alphabetical order; a file named twice is read once.

    Inside folders, hidden files and files of other kinds are passed over.

    Args:
        paths: files and folders.
        encoding: see `read_file`.
        skipped: called with the error of each unreadable file inside a folder, which is then left out; None raises it.
            A file named by itself always raises.
        limits: of each file.

    Raises:
        FileNotFoundError: a path does not exist.
        UnreadableFileError: a file has no readable text, or a folder has no readable file.
    """
    documents: dict[Path, Document] = {}
    for given in map(Path, paths):
        inside = given.is_dir()
        for path in _files_in(given) if inside else [given]:
            if path.resolve() in documents:
                continue
            try:
                documents[path.resolve()] = read_file(path, encoding=encoding, limits=limits)
            except UnreadableFileError as error:
                if skipped is None or not inside:
                    raise
                skipped(error)
    if not documents:
        raise UnreadableFileError("None of the given files could be read.")
    return list(documents.values())


def _check_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        named = f"files of kind {suffix!r}" if suffix else "files without a suffix"
        raise UnreadableFileError(f"{path}: {named} cannot be read. Give {', '.join(SUFFIXES)}.")
    return suffix


def _files_in(folder: Path) -> Sequence[Path]:
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise UnreadableFileError(f"{folder} holds no file that can be read: {', '.join(SUFFIXES)}.")
    return found


def _decoded(path: Path, data: bytes, encoding: str | None) -> str:
    utf16 = data.startswith(_UTF16_MARKS)
    if encoding is None and b"\x00" in data and not utf16:
        raise UnreadableFileError(f"{path} is a binary file, not text.")
    encoding = encoding or ("utf-16" if utf16 else "utf-8-sig")
    try:
        text = data.decode(encoding)
    except LookupError as error:
        raise UnreadableFileError(f"encoding={encoding!r} is unknown: try 'utf-8' or 'latin-1'.") from error
    except UnicodeDecodeError as error:
        name = "utf-8" if encoding == "utf-8-sig" else encoding
        raise UnreadableFileError(
            f"{path} is not {name} text (byte {error.start}): name its encoding, e.g. encoding='latin-1' "
            "(--encoding latin-1), or save it as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _first_heading(text: str) -> str | None:
    """The first heading of Markdown that says something, without the hashes that may close it."""
    for match in _HEADING.finditer(text):
        title = match.group(1).rstrip(" \t")
        bare = title.rstrip("#")
        if bare.endswith((" ", "\t")) or not bare:
            title = bare.strip()
        if title:
            return title
    return None


def _html_text(path: Path, data: bytes, encoding: str | None, limits: ReadLimits) -> tuple[str | None, str]:
    try:
        from spec_rag.answering.html import TooDeepError, decoded_page, page_text
    except ImportError as error:
        raise MissingDependencyError(f'{path}: reading HTML needs lxml: pip install "spec-rag[cli]"') from error
    if encoding is None and b"\x00" in data and not data.startswith(_UTF16_MARKS):
        raise UnreadableFileError(f"{path} is a binary file, not HTML.")
    markup = _decoded(path, data, encoding) if encoding else decoded_page(data)
    try:
        return page_text(markup, max_depth=limits.max_depth, check=clock(path, limits))
    except TooDeepError as error:
        raise UnreadableFileError(
            f"{path} has more than {limits.max_depth} tags open at once: close them, or raise "
            "max_depth of ReadLimits (--max-html-depth)."
        ) from error


def _pdf_text(path: Path, data: bytes, check: Callable[[], None]) -> tuple[str, list[int]]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError
    except ImportError as error:
        raise MissingDependencyError(f'{path}: reading PDF needs pypdf: pip install "spec-rag[cli]"') from error
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableFileError(f"{path} is protected by a password: save a copy without it.")
        pages = []
        for page in reader.pages:
            check()
            pages.append(page.extract_text(visitor_operand_before=lambda *_: check()).strip())
    except UnreadableFileError:
        raise
    except DependencyError as error:
        raise UnreadableFileError(
            f"{path} is encrypted, and the package that decrypts it is missing: pip install cryptography."
        ) from error
    except Exception as error:  # a damaged file makes pypdf raise whatever its parser stumbles over
        raise UnreadableFileError(f"{path} is not a readable PDF: {str(error) or type(error).__name__}.") from error
    if not any(pages):
        raise UnreadableFileError(
            f"{path} holds no text on its {len(pages)} pages: it is probably a scan. Run text recognition on it first "
            "(e.g. ocrmypdf)."
        )
    starts, position = [], 0
    for page in pages:
        starts.append(position)
        position += len(page) + 2
    return "\n\n".join(pages), starts


def _word_text(path: Path, data: bytes, limits: ReadLimits) -> tuple[str | None, str]:
    try:
        import docx
        from docx.table import Table
    except ImportError as error:
        raise MissingDependencyError(f'{path}: reading .docx needs python-docx: pip install "spec-rag[cli]"') from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_size(path, sum(entry.file_size for entry in archive.infolist()), limits)
        document = docx.Document(io.BytesIO(data))
        blocks = [
            "\n".join(" \t".join(cell.text for cell in row.cells) for row in block.rows)
            if isinstance(block, Table)
            else block.text
            for block in document.iter_inner_content()
        ]
        title = document.core_properties.title
    except UnreadableFileError:
        raise
    except Exception as error:  # a damaged file makes its parsers raise whatever they stumble over
        raise UnreadableFileError(
            f"{path} is not a readable Word document: {str(error) or type(error).__name__}."
        ) from error
    return title or None, "\n\n".join(block for block in blocks if block.strip())
