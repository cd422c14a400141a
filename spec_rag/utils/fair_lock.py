"""A lock that serves in the order of arrival, and can be waited for with a way out.

One per loaded model: requests from threads, event loops and batches queue here. It does not know what they run.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque

from spec_rag.utils.cancellation import Cancellation
from spec_rag.utils.forking import renew_in_children, working
from spec_rag.utils.switches import Switch

_POLL_SECONDS = 0.05  # for an event of the caller's own, which cannot wake anybody


_waited = threading.local()


def working_seconds() -> float:
    """A clock of this thread that stands still while it waits for a lock; only differences have a meaning."""
    return time.perf_counter() - float(getattr(_waited, "seconds", 0.0))


class FairLock:
    """First come, first served. A waiter whose `cancelled` event is set leaves the queue.

    The thread that holds it may take it again. In a forked child only what the forking thread holds is still held. A
    fork waits a moment for those that hold one (`spec_rag.utils.forking.working`).
    """

    def __init__(self) -> None:
        self._queue: deque[_Ticket] = deque()  # each operation on a deque is atomic
        renew_in_children(self)

    def hold(self, cancelled: threading.Event | None = None) -> Switch[bool]:
        """Wait for one's turn; the block gets False, without the lock, if `cancelled` was set before it came.

        A `spec_rag.Cancellation` ends the wait at once, any other event within 50 ms.
        """
        return _Turn(self._queue, cancelled)

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

    def __init__(self, queue: deque[_Ticket], cancelled: threading.Event | None) -> None:
        self._queue = queue
        self._cancelled = cancelled
        self._ticket = _Ticket()
        self._work = working()

    def _on(self) -> bool:
        began = time.perf_counter()
        mine = self._wait()
        _waited.seconds = getattr(_waited, "seconds", 0.0) + time.perf_counter() - began
        if mine:
            self._work.__enter__()
        else:
            self._off()
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
        self._work.__exit__(None, None, None)
        with contextlib.suppress(ValueError):
            self._queue.remove(self._ticket)
        with contextlib.suppress(IndexError):
            self._queue[0].wake()


def _wakes(cancelled: threading.Event) -> bool:
    return isinstance(cancelled, Cancellation) and cancelled.wakes
