"""The command line `spec-rag`: parses arguments and prints results.

Importing this package is fast; commands import models when they run. Ctrl-C ends with exit code 130, SIGTERM of a
server with exit code 0.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

INTERRUPTED = 130  # as in shells: 128 plus the signal number


class ServerStopped(SystemExit):
    """A server was stopped by SIGTERM and has finished its requests."""


def main() -> None:
    """Entry point of `spec-rag`."""
    run_interruptible(_run)


def run_interruptible(run: Callable[[], None]) -> None:
    """Run a command line; Ctrl-C prints one line and exits with code 130."""
    try:
        run()
    except KeyboardInterrupt:
        print_interrupted()
        _exit_interrupted()
    except ServerStopped:
        _exit_immediately(0)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            _exit_interrupted()
        raise


def _run() -> None:
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        sys.exit(f'error: the command line needs {error.name}: pip install "spec-rag[cli]"')
    from spec_rag.cli.app import app

    app()


def print_interrupted() -> None:
    """Print one line on stderr, below the ^C of a terminal."""
    with suppress(OSError):
        print("\ninterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr)


def _exit_interrupted() -> None:
    """Exit with code 130 without waiting for models that run in threads."""
    if any(thread.name.startswith("spec-rag") for thread in threading.enumerate()):
        _exit_immediately(INTERRUPTED)  # such a thread must not run during interpreter shutdown
    _flush()
    sys.exit(INTERRUPTED)


def _exit_immediately(code: int) -> None:
    """Exit without interpreter shutdown, which takes seconds with loaded models."""
    _flush()
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
