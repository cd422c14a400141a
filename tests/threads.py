"""Waiting in tests for what other threads do, without guessing how long it takes them."""

from __future__ import annotations

import threading

from spec_rag.models.lock import FairLock


def until_waiting(lock: FairLock, count: int) -> None:
    """Return when so many hold or wait for the lock."""
    pause = threading.Event()
    for _ in range(2000):
        if lock.waiting == count:
            return
        pause.wait(0.005)
    raise AssertionError(f"{lock.waiting} are waiting instead of {count}")
