"""Input and output of the readers of file formats, and the limits on size and time of reading."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spec_rag.errors import ConfigError, UnreadableFileError

WALL_FACTOR = 30
"""Reading may take this many times `max_seconds` of wall time: a busy machine is slow, a reader that hangs is ended."""


@dataclass(frozen=True)
class ReadLimits:
    """Limits on a single file.

    Args:
        max_bytes: size of the file, and size of the unpacked content of an archive (.docx, .epub).
        max_depth: number of HTML tags that may be open at once.
        max_seconds: processor time for reading it. Wall time is limited to 30 times as much.
        max_pages: number of pages of a PDF.

    Raises:
        ConfigError: a value is not above 0.
    """

    max_bytes: int = 64 * 2**20
    max_depth: int = 1000
    max_seconds: float = 60.0
    max_pages: int = 10_000

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_depth", "max_seconds", "max_pages"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigError(f"ReadLimits({name}={value!r}): give a number above 0.")

    @property
    def wall_seconds(self) -> float:
        """Limit on wall time."""
        return WALL_FACTOR * self.max_seconds


@dataclass(frozen=True)
class SourceFile:
    """A file in memory.

    Attributes:
        path: its name, for messages; the file need not exist.
        data: its bytes.
        encoding: of text formats; None detects it.
        limits: see `ReadLimits`.
        check: raises UnreadableFileError once the time for this file is over; readers call it between pieces of work.
    """

    path: Path
    data: bytes
    encoding: str | None
    limits: ReadLimits
    check: Callable[[], None]

    def damaged(self, kind: str, error: Exception) -> UnreadableFileError:
        """The error for content that the parser of this format does not accept."""
        reason = " ".join((str(error) or type(error).__name__).split())
        return UnreadableFileError(f"{self.path} is not a readable {kind}: {reason.rstrip('.')}.")


@dataclass(frozen=True)
class Content:
    """The content of a file.

    Attributes:
        text: the text.
        title: the title that the file gives itself, or None.
        metadata: what else is known about the text.
    """

    text: str
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def check_size(path: Path, size: int, limits: ReadLimits) -> None:
    """Refuse a file that is larger than it may be.

    Raises:
        UnreadableFileError: `size` is above `limits.max_bytes`.
    """
    if size > limits.max_bytes:
        raise UnreadableFileError(
            f"{path} has more than {limits.max_bytes:,} bytes: split it, or raise max_bytes of ReadLimits "
            "(--max-file-mb)."
        )


def clock(path: Path, limits: ReadLimits) -> Callable[[], None]:
    """A function that raises UnreadableFileError once the time for this file is over.

    Processor time is that of the calling thread: neither other programs nor other threads count. The function has to be
    called by the thread that called `clock`.
    """
    end = time.thread_time() + limits.max_seconds
    wall_end = time.monotonic() + limits.wall_seconds

    def check() -> None:
        if time.thread_time() > end or time.monotonic() > wall_end:
            raise too_slow(path, limits)

    return check


def too_slow(path: Path, limits: ReadLimits) -> UnreadableFileError:
    """The error for a file that takes too long to read."""
    return UnreadableFileError(
        f"{path} takes more than {limits.max_seconds:g} seconds to read: split it, or raise max_seconds of ReadLimits "
        "(--max-file-seconds)."
    )
