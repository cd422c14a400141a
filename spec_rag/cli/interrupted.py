"""Ctrl-C: one line, and an exit code that says so."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

INTERRUPTED = 130  # as shells have it: 128 and the number of the signal


def tell_interrupted() -> None:
    """One line on stderr, below the ^C that a terminal shows."""
    with suppress(OSError):
        print("\ninterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr)


def leave_interrupted() -> None:
    """End the process, without a wait for a model that still runs in a thread."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if any(thread.name.startswith("spec-rag") for thread in threading.enumerate()):
        os._exit(INTERRUPTED)  # such a thread must not outlive the interpreter
    sys.exit(INTERRUPTED)
