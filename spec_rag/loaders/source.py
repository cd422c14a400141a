"""What a reader of a format gets, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.limits import ReadLimits


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
