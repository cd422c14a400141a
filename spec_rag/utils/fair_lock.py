"""Fair (FIFO) reentrant lock whose waiters can be cancelled. Each loaded model has one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque

from spec_rag.utils.cancellation import Cancellation
from spec_rag.utils.forking import renew_in_children, working
from spec_rag.utils.switches import Switch

_POLL_SECONDS = 0.05  # for a plain threading.Event, which has no callbacks


_waited = threading.local()


def working_seconds() -> float:
    """Seconds on a clock of this thread that excludes waiting for locks; only differences are meaningful."""
    return time.perf_counter() - float(getattr(_waited, "seconds", 0.0))


class FairLock:
    """FIFO lock, reentrant per thread. A waiter whose `cancelled` event is set leaves the queue.

    In a forked child the lock is held only if the forking thread held it. A fork waits briefly for holders in other
    threads (`spec_rag.utils.forking.working`). Unlike a `threading` lock it is also released when its block is left
    between two instructions.

    Args:
        is_work: False if no model runs while it is held, so that forks do not wait for its holders.
    """

    def __init__(self, *, is_work: bool = True) -> None:
        self._is_work = is_work
        self._queue: deque[_Ticket] = deque()  # each operation on a deque is atomic
        renew_in_children(self)

    def hold(self, cancelled: threading.Event | None = None) -> Switch[bool]:
        """Acquire the lock; the block gets False, without the lock, if `cancelled` was set while waiting.

        A `spec_rag.Cancellation` ends the wait at once, any other event within 50 ms.
        """
        return _Turn(self._queue, cancelled, working() if self._is_work else None)

    @property
    def waiting(self) -> int:
        """Requests holding or waiting for the lock."""
        return len(self._queue)

    def renew_in_child(self) -> None:
        """Remove tickets of threads that do not exist in the forked child."""
        tickets = [ticket for ticket in self._queue if ticket.thread == threading.get_ident()]
        self._queue.clear()
        self._queue.extend(tickets)


class _Ticket:
    """A place in the queue. The thread that leaves the front wakes the next."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self, seconds: float) -> None:
        """Return when woken or after `seconds`; -1 is no timeout."""
        self._gate.acquire(timeout=seconds)

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # already awake
            self._gate.release()


class _Turn(Switch[bool]):
    """One acquisition, from the wait to the end of the block."""

    def __init__(self, queue: deque[_Ticket], cancelled: threading.Event | None, work: Switch[None] | None) -> None:
        self._queue = queue
        self._cancelled = cancelled
        self._ticket = _Ticket()
        self._work = work

    def _on(self) -> bool:
        began = time.perf_counter()
        acquired = self._wait()
        _waited.seconds = getattr(_waited, "seconds", 0.0) + time.perf_counter() - began
        if not acquired:
            self._off()
        elif self._work is not None:
            self._work.__enter__()
        return acquired

    def _wait(self) -> bool:
        if self._is_nested():
            self._queue.appendleft(self._ticket)
            return True
        self._queue.append(self._ticket)
        cancelled = self._cancelled
        with cancelled.calling(self._ticket.wake) if isinstance(cancelled, Cancellation) else contextlib.nullcontext():
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
        while self._ticket in self._queue.copy():  # twice if an interrupted block was entered again
            with contextlib.suppress(ValueError):
                self._queue.remove(self._ticket)
        with contextlib.suppress(IndexError):
            self._queue[0].wake()


def _wakes(cancelled: threading.Event) -> bool:
    return isinstance(cancelled, Cancellation) and cancelled.wakes
