"""Waiting in tests for what other threads do, without guessing how long it takes them."""

from __future__ import annotations

import threading
import time

from spec_rag.utils.fair_lock import FairLock


def until_waiting(lock: FairLock, count: int) -> None:
    """Return when so many hold or wait for the lock."""
    pause = threading.Event()
    for _ in range(2000):
        if lock.waiting == count:
            return
        pause.wait(0.005)
    raise AssertionError(f"{lock.waiting} are waiting instead of {count}")


def wait_for_no_stream_threads(seconds: float = 10.0) -> None:
    """Return when no generation runs in a thread of its own."""
    deadline = time.monotonic() + seconds
    while any(thread.name.startswith("spec-rag") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a generation goes on that nobody waits for"
        time.sleep(0.01)
