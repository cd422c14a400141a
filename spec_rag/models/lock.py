"""A lock that serves in the order of arrival, and can be waited for with a way out.

One per loaded model: requests from threads, event loops and batches queue here. It does not know what they run.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from typing import Any, ClassVar

from spec_rag.cancellation import Cancellation
from spec_rag.forking import new_lock, renew_in_children, working
from spec_rag.switches import Switch

_POLL_SECONDS = 0.05  # for an event of the caller's own, which cannot wake anybody


class FairLock:
    """First come, first served. A waiter whose `cancelled` event is set leaves the queue.

    The thread that holds it may take it again. In a forked child only what the forking thread holds is still held. A
    fork waits a moment for those that hold one (`spec_rag.forking.working`). Unlike a lock of `threading` it is free
    again also where its block is left between two instructions.

    Args:
        is_work: False where no model runs in its blocks, so that no fork waits for them.
    """

    _registry: ClassVar[weakref.WeakKeyDictionary[object, FairLock]] = weakref.WeakKeyDictionary()
    _registry_lock: ClassVar[Any] = new_lock()

    def __init__(self, *, is_work: bool = True) -> None:
        self._is_work = is_work
        self._queue: deque[_Ticket] = deque()  # each operation on a deque is atomic
        renew_in_children(self)

    @classmethod
    def of(cls, owner: object) -> FairLock:
        """The lock of that object, one for its lifetime."""
        with cls._registry_lock:
            lock = cls._registry.get(owner)
            if lock is None:
                lock = cls._registry[owner] = cls()
            return lock

    def hold(self, cancelled: threading.Event | None = None) -> Switch[bool]:
        """Wait for one's turn; the block gets False, without the lock, if `cancelled` was set before it came.

        A `spec_rag.Cancellation` ends the wait at once, any other event within 50 ms.
        """
        return _Turn(self._queue, cancelled, working() if self._is_work else None)

    @property
    def waiting(self) -> int:
        """Requests holding or waiting for the lock."""
        return len(self._queue)

    def renew_in_child(self) -> None:
        """Take the threads that are not in a forked child out of the queue."""
        own = [ticket for ticket in self._queue if ticket.thread == threading.get_ident()]
        self._queue.clear()
        self._queue.extend(own)


class _Ticket:
    """A place in the queue; whoever leaves the front wakes the next."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self, seconds: float) -> None:
        """Return when woken, or after so many seconds (-1: never)."""
        self._gate.acquire(timeout=seconds)

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake
            self._gate.release()


class _Turn(Switch[bool]):
    """One stay in the queue, from the wait to the end of the block."""

    def __init__(self, queue: deque[_Ticket], cancelled: threading.Event | None, work: Switch[None] | None) -> None:
        self._queue = queue
        self._cancelled = cancelled
        self._ticket = _Ticket()
        self._work = work

    def _on(self) -> bool:
        mine = self._wait()
        if not mine:
            self._off()
        elif self._work is not None:
            self._work.__enter__()
        return mine

    def _wait(self) -> bool:
        if self._is_nested():
            self._queue.appendleft(self._ticket)
            return True
        self._queue.append(self._ticket)
        cancelled = self._cancelled
        with cancelled.telling(self._ticket.wake) if isinstance(cancelled, Cancellation) else contextlib.nullcontext():
            while not (cancelled is not None and cancelled.is_set()):
                if self._queue[0] is self._ticket:
                    return True
                self._ticket.wait(-1 if cancelled is None or _wakes(cancelled) else _POLL_SECONDS)
        return False

    def _is_nested(self) -> bool:
        with contextlib.suppress(IndexError):
            return self._queue[0].thread == self._ticket.thread
        return False

    def _off(self) -> None:
        if self._work is not None:
            self._work.__exit__(None, None, None)
        while self._ticket in self._queue.copy():  # more than once where it was interrupted and entered again
            with contextlib.suppress(ValueError):
                self._queue.remove(self._ticket)
        with contextlib.suppress(IndexError):
            self._queue[0].wake()


def _wakes(cancelled: threading.Event) -> bool:
    return isinstance(cancelled, Cancellation) and cancelled.wakes
