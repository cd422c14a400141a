"""The command line `spec-rag`: parses arguments and prints results.

Importing this package is fast; commands import models when they run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from spec_rag.cli.interrupted import INTERRUPTED, ServerStopped, exit_immediately, exit_interrupted, print_interrupted


def main() -> None:
    """Entry point of `spec-rag`."""
    run_interruptible(_run)


def run_interruptible(run: Callable[[], None]) -> None:
    """Run a command line; Ctrl-C prints one line and exits with code 130."""
    try:
        run()
    except KeyboardInterrupt:
        print_interrupted()
        exit_interrupted()
    except ServerStopped:
        exit_immediately(0)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            exit_interrupted()
        raise


def _run() -> None:
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        sys.exit(f'error: the command line needs {error.name}: pip install "spec-rag[cli]"')
    from spec_rag.cli.app import app

    app()
