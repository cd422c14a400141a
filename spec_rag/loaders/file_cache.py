"""Documents of files that were read before, for as long as the files are not modified."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.folders import FoundFile
from spec_rag.text.documents import Document

Stamp = tuple[int, int, int]


class FileCache:
    """What was read of each file, or why it could not be read, with the file's modification time and size.

    A file that is not there any more is forgotten by `forget_missing`. One thread at a time may use it.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[str, Stamp, Document | UnreadableFileError]] = {}
        self.reads = 0

    def read(self, found: FoundFile, read: Callable[[FoundFile], Document]) -> Document:
        """The document of a file; the same object as long as the file is not modified.

        Args:
            found: the file.
            read: reads it.

        Raises:
            UnreadableFileError: no text can be read from it.
        """
        stamp = _stamp(found.real_path)
        known = self._known.get(found.real_path)
        if stamp is None or known is None or known[:2] != (str(found.path), stamp):
            self.reads += 1
            content: Document | UnreadableFileError
            try:
                content = read(found)
            except UnreadableFileError as error:
                content = error.with_traceback(None)
            if stamp is not None:
                self._known[found.real_path] = (str(found.path), stamp, content)
        else:
            content = known[2]
        if isinstance(content, UnreadableFileError):
            raise content
        return content

    def forget_missing(self) -> None:
        """Forget the files that do not exist any more."""
        self._known = {path: known for path, known in self._known.items() if path.exists()}


def _stamp(path: Path) -> Stamp | None:
    """Modification time in nanoseconds, size and inode; None where the file cannot be looked up."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
