"""Ends by signals: after Ctrl-C one line and exit code 130, after SIGTERM exit code 0, both without delay."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress


class ServerStopped(SystemExit):
    """A server was stopped by SIGTERM and has finished its requests."""


INTERRUPTED = 130  # as shells have it: 128 and the number of the signal


def tell_interrupted() -> None:
    """One line on stderr, below the ^C that a terminal shows."""
    with suppress(OSError):
        print("\ninterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr)


def leave_interrupted() -> None:
    """End the process, without a wait for a model that still runs in a thread."""
    if any(thread.name.startswith("spec-rag") for thread in threading.enumerate()):
        leave_at_once(INTERRUPTED)  # such a thread must not outlive the interpreter
    _flush()
    sys.exit(INTERRUPTED)


def leave_at_once(code: int) -> None:
    """End the process without the interpreter's own end, which takes seconds where models are loaded."""
    _flush()
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
