"""Fork safety: locks and thread-bound objects are reset in a forked child, where only the forking thread exists.

A lock that another thread held at the fork would stay locked in the child. So every lock of the package is created by
`new_lock`, and every object that refers to threads is registered by `renew_in_children`. Locks inside torch and its
libraries cannot be reset: a fork waits briefly for models that run in other threads (`working`), and if they still run,
the child refuses to run a model.
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

_MAX_WAIT_SECONDS = 2.0  # of a fork for models in other threads
_POLL_SECONDS = 0.002


class InChild(Protocol):
    """An object that must be reset after a fork."""

    def renew_in_child(self) -> None:
        """Drop references to other threads; called in the child before any other code."""
        ...


_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_renewed: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock() -> contextlib.AbstractContextManager[bool]:
    """Create a reentrant lock that is free in a forked child unless the forking thread holds it.

    It is the interpreter's own lock without a wrapper, so no signal can arrive between acquiring it and its block.
    """
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def renew_in_children(owner: InChild) -> None:
    """Call `owner.renew_in_child()` in every child process forked during the owner's lifetime."""
    _renewed.add(owner)


_working: dict[object, int] = {}  # thread by `working` block; dict operations are atomic
_forking: set[int] = set()  # threads that are about to fork
_unusable = False


def working() -> Switch[None]:
    """A block in which this thread runs a model. It starts after a fork that another thread has begun.

    Raises:
        ForkedError: the process was forked while another thread ran a model.
    """
    return _Working()


class _Working(Switch[None]):
    """Registers the thread as running a model; nested blocks start at once."""

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
    latest = time.monotonic() + _MAX_WAIT_SECONDS
    while _others_work() and time.monotonic() < latest:
        time.sleep(_POLL_SECONDS)


def _after_fork_in_parent() -> None:
    _forking.discard(threading.get_ident())


def _locks_of_cached_properties() -> Iterator[Any]:
    """Locks of cached properties, which Python before 3.12 shares between all objects of a class."""
    if not hasattr(cached_property(len), "lock"):
        return
    for name, module in list(sys.modules.items()):
        if "spec_rag" in name:
            for owner in [value for value in vars(module).values() if isinstance(value, type)]:
                properties = (value for value in vars(owner).values() if isinstance(value, cached_property))
                yield from (getattr(value, "lock") for value in properties)  # noqa: B009 (no attribute of its type)


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
        # OpenMP's threads do not exist in the child: the next parallel operator would wait for them forever
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
