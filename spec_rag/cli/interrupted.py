"""Exit codes and prompt exits: Ctrl-C is 130, a server stopped by SIGTERM is 0."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

INTERRUPTED = 130  # as in shells: 128 plus the signal number


class ServerStopped(SystemExit):
    """A server was stopped by SIGTERM and has finished its requests."""


def print_interrupted() -> None:
    """Print one line on stderr, below the ^C of a terminal."""
    with suppress(OSError):
        print("\ninterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr)


def exit_interrupted() -> None:
    """Exit with code 130 without waiting for models that run in threads."""
    if any(thread.name.startswith("spec-rag") for thread in threading.enumerate()):
        exit_immediately(INTERRUPTED)  # such a thread must not run during interpreter shutdown
    _flush()
    sys.exit(INTERRUPTED)


def exit_immediately(code: int) -> None:
    """Exit without interpreter shutdown, which takes seconds with loaded models."""
    _flush()
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
