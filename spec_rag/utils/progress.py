"""Progress of long work: a bar on a terminal, nothing elsewhere, or whatever the caller wants to show.

Work that happens once (a download's conversion) or is asked for as such (an evaluation) shows a bar by itself; work
that every call does, such as reading, is only told to those who listen.

Work says what it is doing and how far it is; this module decides who hears of it. It does not know the work.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import Any

from spec_rag.utils.switches import Switch

Listener = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_SECONDS = 1.0  # between two drawings of a bar that does not move

_listener: ContextVar[Listener | None] = ContextVar("spec_rag_progress", default=None)


def listening(listener: Listener) -> Switch[None]:
    """Hand the progress of the work inside the block to `listener` instead of showing it."""
    return _Listening(listener)


class _Listening(Switch[None]):
    """Sets who listens, and puts back who did before."""

    def __init__(self, listener: Listener) -> None:
        self._given = listener
        self._token: Token[Listener | None] | None = None

    def _on(self) -> None:
        self._token = _listener.set(self._given)

    def _off(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            with suppress(ValueError, RuntimeError):  # deleted in another thread or task
                _listener.reset(token)


def current_listener() -> Listener | None:
    """The listener of this block, or None where nobody listens."""
    return _listener.get()


@contextmanager
def steps(what: str, total: int, *, only_told: bool = False) -> Iterator[Callable[[], None]]:
    """Tell of work in `total` steps; call what is yielded after each.

    Args:
        what: what is being done.
        total: how many steps it has.
        only_told: show nothing where nobody listens.
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
    if only_told or not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, leave=False) as bar, _refreshed(bar):
        yield lambda: bar.update() and None


@contextmanager
def _refreshed(bar: Any) -> Iterator[None]:
    """Draw the bar again every second, so that its clock runs on during a long step."""
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(_SECONDS):
            bar.refresh()

    thread = threading.Thread(target=refresh, name="spec-rag-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
