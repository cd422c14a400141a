"""Files to documents, one by one or by folder. The suffix selects the reader.

A document's text is the content of its file, so that character ranges found later point into it. For text formats it is
exactly what `open(path).read()` returns. `docs/files.md` lists the formats and what their readers leave out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.file_cache import FileCache
from spec_rag.loaders.folders import FoundFile, PathLike, Skipped, find_inside, find_named_file, list_folder
from spec_rag.loaders.formats import KINDS, SUFFIXES, reader_of
from spec_rag.loaders.source import ReadLimits, SourceFile, check_size, clock
from spec_rag.text.documents import Document

__all__ = ["KINDS", "SUFFIXES", "read_bytes", "read_file", "read_files"]

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
    reader = reader_of(path)
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
    cache: FileCache | None = None,
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
        cache: files that were read before; one that was not modified since is not read again. None reads all.

    Raises:
        FileNotFoundError: a path does not exist.
        UnreadableFileError: a file has no readable text, is outside `within`, or a folder has no readable file.
    """
    documents: dict[Path, Document] = {}
    report = _raise if skipped is None else _once(skipped)
    roots = None if within is None else [Path(folder) for folder in within]
    for given in paths:
        named = find_named_file(given) if roots is None else find_inside(roots, given)
        is_folder = named.real_path.is_dir()
        for found in _files_in(named, report) if is_folder else [named]:
            if found.real_path in documents:
                continue
            try:
                if cache is None:
                    documents[found.real_path] = _read_found(found, encoding, limits)
                else:
                    documents[found.real_path] = cache.read(found, lambda one: _read_found(one, encoding, limits))
            except UnreadableFileError as error:
                if skipped is None or not is_folder:
                    raise
                report(error)
    if not documents:
        raise UnreadableFileError("None of the given files could be read.")
    return list(documents.values())


def _once(skipped: Skipped) -> Skipped:
    """A function that passes each message on once: folders may be given twice, or inside of each other."""
    said: set[str] = set()

    def report(error: UnreadableFileError) -> None:
        if str(error) not in said:
            said.add(str(error))
            skipped(error)

    return report


def _raise(error: UnreadableFileError) -> None:
    raise error


def _files_in(folder: FoundFile, skipped: Skipped) -> Sequence[FoundFile]:
    found = list_folder(folder.path, SUFFIXES, skipped, root=folder.folder)
    if not found:
        raise UnreadableFileError(f"{folder.path} holds no file that can be read: {KINDS}.")
    return found


def _read_found(found: FoundFile, encoding: str | None, limits: ReadLimits) -> Document:
    reader_of(found.path)
    try:
        with found.open() as file:
            data = file.read(int(limits.max_bytes) + 1)
    except OSError as error:
        raise UnreadableFileError(f"{found.path} cannot be read: {error.strerror or error}.") from error
    return read_bytes(found.path, data, encoding=encoding, limits=limits)
