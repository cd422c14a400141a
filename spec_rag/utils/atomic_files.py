"""Files that are written whole or not at all: others see the old one, or none, or the whole new one.

Everything that the package writes goes through here, but for lines that are appended (`evaluation/records.py`) and the
folder of a converted model. This module does not know what is in a file.
"""

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
_OURS = ".spec-rag-"
_ABANDONED_SECONDS = 3600  # no write takes as long

_WAYS_OUT = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "make room, or give a path on another disk",
    (errno.EACCES, errno.EPERM, errno.EROFS): "give a path in a folder that may be written to",
    (errno.ENOENT, errno.ENOTDIR): "make its folder first, or give another path",
}


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that others see the old one, or none, or the whole new one, whenever the writer is killed.

    An older file leaves its permissions to the new one; a link is replaced, not followed. What writers that were killed
    have left in the folder is taken away after an hour.

    Args:
        path: of the file; its folder must be there.
        data: all of it; text is written as UTF-8.

    Raises:
        FileNotWrittenError: it cannot be written. What stood there is as before, and nothing else is left behind.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    _remove_abandoned(path.parent)
    unfinished = path.parent / f"{_OURS}{secrets.token_hex(8)}{UNFINISHED}"
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
    """Take away what writers that were killed long ago left unfinished."""
    with suppress(OSError):
        for path in folder.glob(f"{_OURS}*{UNFINISHED}"):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)


def not_written(path: Path, error: OSError) -> FileNotWrittenError:
    """The error for a path that cannot be written: why, and what to do."""
    way_out = next((way for numbers, way in _WAYS_OUT.items() if error.errno in numbers), "give another path")
    told = FileNotWrittenError(f"{path} cannot be written ({error.strerror or error}): {way_out}.")
    told.errno = error.errno
    return told
