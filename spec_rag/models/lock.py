"""A lock that serves in the order of arrival, and can be waited for with a way out.

One per loaded model: requests from threads, event loops and batches queue here. It does not know what they run.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar

from spec_rag.cancellation import Cancellation

_POLL_SECONDS = 0.05  # for an event of the caller's own, which cannot wake anybody


_waited = threading.local()


def working_seconds() -> float:
    """A clock of this thread that stands still while it waits for a lock; only differences have a meaning."""
    return time.perf_counter() - float(getattr(_waited, "seconds", 0.0))


class FairLock:
    """First come, first served; not reentrant. A waiter whose `cancelled` event is set leaves the queue."""

    _registry: ClassVar[weakref.WeakKeyDictionary[object, FairLock]] = weakref.WeakKeyDictionary()
    _registry_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue: deque[object] = deque()

    @classmethod
    def of(cls, owner: object) -> FairLock:
        """The lock of that object, one for its lifetime."""
        with cls._registry_lock:
            lock = cls._registry.get(owner)
            if lock is None:
                lock = cls._registry[owner] = cls()
            return lock

    @contextmanager
    def hold(self, cancelled: threading.Event | None = None) -> Iterator[bool]:
        """Wait for one's turn; yields False, without the lock, if `cancelled` was set before it came.

        A `spec_rag.Cancellation` ends the wait at once, any other event within 50 ms.
        """
        ticket = object()
        wakes = isinstance(cancelled, Cancellation)
        telling: AbstractContextManager[None] = nullcontext()
        if isinstance(cancelled, Cancellation):
            telling = cancelled.telling(self._wake)
        with self._condition:
            self._queue.append(ticket)
        mine = False
        began = time.perf_counter()
        try:
            with telling, self._condition:
                while self._queue[0] is not ticket and not (cancelled is not None and cancelled.is_set()):
                    self._condition.wait(None if cancelled is None or wakes else _POLL_SECONDS)
                mine = not (cancelled is not None and cancelled.is_set())
                if not mine:
                    self._leave(ticket)
            _waited.seconds = getattr(_waited, "seconds", 0.0) + time.perf_counter() - began
            yield mine
        finally:
            with self._condition:
                if ticket in self._queue:
                    self._leave(ticket)

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _leave(self, ticket: object) -> None:
        self._queue.remove(ticket)
        self._condition.notify_all()

    @property
    def waiting(self) -> int:
        """Requests holding or waiting for the lock."""
        return len(self._queue)
