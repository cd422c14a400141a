"""Files of JSON lines to which a run appends its results, and from which an interrupted run continues."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from spec_rag.errors import UnreadableFileError
from spec_rag.utils.atomic_files import not_written

Row = TypeVar("Row")

_BLOCK_BYTES = 65536


def read_lines(path: Path, read: Callable[[str], Row]) -> list[Row]:
    """Read the lines of an earlier run; a truncated last line is ignored (`append_lines` removes it).

    Raises:
        UnreadableFileError: a line other than that cannot be parsed; the message names it.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if line.startswith(b"{") and not line.endswith(b"\n"):
            break
        try:
            rows.append(read(line.decode("utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableFileError(
                f"{path}, line {number}: {error!r}. This command did not write this line: give another output file."
            ) from error
    return rows


def append_lines(path: Path | None, lines: Iterable[str]) -> None:
    """Append lines atomically, after removing a truncated last line; None as the path writes nothing.

    Raises:
        FileNotWrittenError: they cannot be written. The file keeps its complete earlier lines.
    """
    if path is None:
        return
    remaining = "".join(f"{line}\n" for line in lines).encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            complete = _end_of_last_line(file)
            file.truncate(complete)
            try:
                while remaining:
                    remaining = remaining[file.write(remaining) :]
            except BaseException:
                file.truncate(complete)
                raise
    except OSError as error:
        raise not_written(path, error) from error


def _end_of_last_line(file: io.FileIO) -> int:
    """Offset of the end of the last complete line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        line_break = file.read(end - start).rfind(b"\n")
        if line_break >= 0:
            return start + line_break + 1
        end = start
    return 0
