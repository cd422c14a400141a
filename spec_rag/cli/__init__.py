"""The command line, `spec-rag`: this package reads arguments and prints; the work is done elsewhere.

Importing it is instant. Commands import models inside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from spec_rag.cli.interrupted import INTERRUPTED, ServerStopped, leave_at_once, leave_interrupted, tell_interrupted


def main() -> None:
    """The entry point `spec-rag`."""
    run_interruptible(_run)


def run_interruptible(run: Callable[[], None]) -> None:
    """Run a command line; Ctrl-C prints one line and exits with code 130."""
    try:
        run()
    except KeyboardInterrupt:
        tell_interrupted()
        leave_interrupted()
    except ServerStopped:
        leave_at_once(0)
    except SystemExit as left:
        if left.code == INTERRUPTED:
            leave_interrupted()
        raise


def _run() -> None:
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        sys.exit(f'error: the command line needs {error.name}: pip install "spec-rag[cli]"')
    from spec_rag.cli.app import app

    app()
