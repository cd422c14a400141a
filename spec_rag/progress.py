"""Progress of long work: a bar on a terminal, nothing elsewhere, or whatever the caller wants to show.

Work that happens once (a download's conversion) or is asked for as such (an evaluation) shows a bar by itself; work
that every call does, such as reading, is only told to those who listen.

Work says what it is doing and how far it is; this module decides who hears of it. It does not know the work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spec_rag.switches import Scoped, Switch

Listener = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_listener: Scoped[Listener] = Scoped("spec_rag_progress")


def listening(listener: Listener) -> Switch[None]:
    """Hand the progress of the work inside the block to `listener` instead of showing it."""
    return _listener.set(listener)


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

    with tqdm(total=total, desc=what, leave=False) as bar:
        yield lambda: bar.update() and None
