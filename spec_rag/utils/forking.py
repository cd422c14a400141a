"""What threads share, made usable again in a forked child, where only the thread that forked goes on.

A lock that another thread held at the fork stays locked in the child for ever, and what that thread had switched on is
never switched off. Every lock of the package is made by `new_lock`, and every object that notes threads, or waits for
one, is registered by `renew_in_children`. torch and the libraries under it have locks that nobody can free: a fork
waits a moment for models that run in other threads (`working`), and if they still run, the child refuses to run a
model. This module does not know what the locks are for.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol

from spec_rag.errors import ForkedError
from spec_rag.utils.switches import Switch

_MOST_SECONDS = 2.0  # that a fork waits for other threads
_POLL_SECONDS = 0.002


class InChild(Protocol):
    """An object that has something to renew after a fork."""

    def renew_in_child(self) -> None:
        """Forget the threads that are not in the child; called there, in the only thread, before anything else runs."""
        ...


_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_renewed: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock() -> contextlib.AbstractContextManager[bool]:
    """A reentrant lock, which is free in a forked child unless the thread that forked holds it.

    It is the interpreter's own lock and no class around it: a signal cannot arrive between taking it and its block.
    """
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def renew_in_children(owner: InChild) -> None:
    """Call `owner.renew_in_child()` in every process that is forked from this one while the owner lives."""
    _renewed.add(owner)


_working: dict[object, int] = {}  # per block of `working` its thread; each operation on a dict is atomic
_forking: set[int] = set()  # threads that are about to fork
_unusable = False


def working() -> Switch[None]:
    """A block in which this thread runs a model; where another thread is about to fork, it begins after that.

    Raises:
        ForkedError: this is a child that was forked while another thread ran a model.
    """
    return _Working()


class _Working(Switch[None]):
    """Notes that the thread works; inside such a block of the same thread it begins at once."""

    def __init__(self) -> None:
        self._key = object()

    def _on(self) -> None:
        if _unusable:
            raise ForkedError(
                "This process was forked while another thread of its parent ran a model, so locks inside torch may "
                "never be free here: start processes with the 'spawn' or 'forkserver' method of multiprocessing, or "
                "fork while no model runs."
            )
        nested = threading.get_ident() in list(_working.values())
        _working[self._key] = threading.get_ident()
        while _forking and not nested:
            _working.pop(self._key, None)
            time.sleep(_POLL_SECONDS)
            _working[self._key] = threading.get_ident()

    def _off(self) -> None:
        _working.pop(self._key, None)


def _others_work() -> bool:
    return any(thread != threading.get_ident() for thread in list(_working.values()))


def _before_fork() -> None:
    _forking.add(threading.get_ident())
    latest = time.monotonic() + _MOST_SECONDS
    while _others_work() and time.monotonic() < latest:
        time.sleep(_POLL_SECONDS)


def _after_fork_in_parent() -> None:
    _forking.discard(threading.get_ident())


def _locks_of_cached_properties() -> Iterator[Any]:
    """Those that Python before 3.12 holds while it computes a cached property, one for all objects of a class."""
    if not hasattr(cached_property(len), "lock"):
        return
    for name, module in list(sys.modules.items()):
        if "spec_rag" in name:
            for owner in [one for one in vars(module).values() if isinstance(one, type)]:
                yield from (getattr(one, "lock") for one in vars(owner).values() if isinstance(one, cached_property))  # noqa: B009


def _after_fork_in_child() -> None:
    global _unusable
    _unusable = _unusable or _others_work()
    for key in [key for key, thread in list(_working.items()) if thread != threading.get_ident()]:
        del _working[key]
    _forking.clear()
    for lock in [*_locks, *_locks_of_cached_properties()]:
        if not lock._is_owned():
            lock._at_fork_reinit()  # as the standard library does with its own locks
    for owner in list(_renewed):
        owner.renew_in_child()
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads") and torch.get_num_threads() > 1:
        # OpenMP's threads are not in the child either, and the next parallel operator would wait for them for ever
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
