"""Atomic writes: readers see the old file or the complete new one."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path

from spec_rag.errors import FileNotWrittenError

UNFINISHED = ".tmp"
_PREFIX = ".spec-rag-"
_ABANDONED_SECONDS = 3600  # longer than any write

_SUGGESTIONS = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free disk space, or give a path on another disk",
    (errno.EACCES, errno.EPERM, errno.EROFS): "give a path in a writable folder",
    (errno.ENOENT, errno.ENOTDIR): "create its folder, or give another path",
}


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file atomically, also if the process is killed meanwhile.

    The permissions of an existing file are kept; a link is replaced, not followed. Temporary files that killed
    processes left in the folder are deleted after an hour.

    Args:
        path: the file; its folder must exist.
        data: the complete content; text is written as UTF-8.

    Raises:
        FileNotWrittenError: it cannot be written. The old file is unchanged, and no temporary file remains.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    _remove_abandoned(path.parent)
    unfinished = path.parent / f"{_PREFIX}{secrets.token_hex(8)}{UNFINISHED}"
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                os.chmod(unfinished, stat.S_IMODE(path.stat().st_mode))
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise not_written(path, error) from error


def _remove_abandoned(folder: Path) -> None:
    """Delete the temporary files of killed processes."""
    with suppress(OSError):
        for path in folder.glob(f"{_PREFIX}*{UNFINISHED}"):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)


def not_written(path: Path, error: OSError) -> FileNotWrittenError:
    """The error for a path that cannot be written, with its cause and a suggestion."""
    suggestion = next((text for numbers, text in _SUGGESTIONS.items() if error.errno in numbers), "give another path")
    not_written_error = FileNotWrittenError(f"{path} cannot be written ({error.strerror or error}): {suggestion}.")
    not_written_error.errno = error.errno
    return not_written_error
