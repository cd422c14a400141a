"""Progress of long operations: a bar on a terminal, or calls of a listener.

Operations that run once (a conversion) or on request (an evaluation) show a bar. Operations inside every call, such as
encoding, report to a listener only.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from spec_rag.utils.switches import Scoped, Switch

Listener = Callable[[str, int, int], None]
"""Called with a description, the number of steps done, and the total."""

_REFRESH_SECONDS = 1.0

# per thread and task: set per request and copied to worker threads
_listener: Scoped[Listener] = Scoped("spec_rag_progress")


def listening(listener: Listener) -> Switch[None]:
    """Report progress inside the block to `listener` instead of a bar."""
    return _listener.set(listener)


def current_listener() -> Listener | None:
    """The current listener, or None."""
    return _listener.get()


@contextmanager
def steps(what: str, total: int, *, silent: bool = False) -> Iterator[Callable[[], None]]:
    """Report an operation of `total` steps; call the yielded function after each step.

    Args:
        what: description.
        total: number of steps.
        silent: show no bar without a listener.
    """
    listener = _listener.get()
    done = 0
    if listener is not None:
        listener(what, 0, total)

        def advance() -> None:
            nonlocal done
            done += 1
            listener(what, done, total)

        yield advance
        return
    if silent or not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, leave=False) as bar, _refreshed(bar):
        yield lambda: bar.update() and None


@contextmanager
def _refreshed(bar: Any) -> Iterator[None]:
    """Redraw the bar every second, so that its clock advances during a long step."""
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(_REFRESH_SECONDS):
            bar.refresh()

    thread = threading.Thread(target=refresh, name="spec-rag-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
