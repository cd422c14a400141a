"""How much a file may ask for before it is refused. This module does not know formats."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spec_rag.errors import ConfigError, UnreadableFileError


@dataclass(frozen=True)
class ReadLimits:
    """How much a single file may ask for before it is refused.

    Args:
        max_bytes: of the file, and of what a .docx unpacks to.
        max_depth: tags of HTML that may be open at once.
        max_seconds: of reading HTML or PDF, looked at between their pieces.

    Raises:
        ConfigError: one of them is not above 0.
    """

    max_bytes: int = 64 * 2**20
    max_depth: int = 1000
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_depth", "max_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigError(f"ReadLimits({name}={value!r}): give a number above 0.")


def check_size(path: Path, size: int, limits: ReadLimits) -> None:
    """Refuse a file that is larger than it may be.

    Raises:
        UnreadableFileError: it is.
    """
    if size > limits.max_bytes:
        raise UnreadableFileError(
            f"{path} has more than {limits.max_bytes:,} bytes: split it, or raise max_bytes of ReadLimits "
            "(--max-file-mb)."
        )


def clock(path: Path, limits: ReadLimits) -> Callable[[], None]:
    """A function that raises UnreadableFileError once the time for this file is over."""
    end = time.monotonic() + limits.max_seconds

    def check() -> None:
        if time.monotonic() > end:
            raise UnreadableFileError(
                f"{path} takes more than {limits.max_seconds:g} seconds to read: split it, or raise "
                "max_seconds of ReadLimits (--max-file-seconds)."
            )

    return check
