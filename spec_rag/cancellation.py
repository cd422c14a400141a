"""Work that can be cancelled: a signal that wakes those who wait, and threads that an event loop can let go of.

This module does not know the work.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar, cast

from spec_rag.errors import CancelledError


class Cancellation(threading.Event):
    """An event that tells those who asked to be told when it is set."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._told: dict[object, Callable[[], None]] = {}

    def set(self) -> None:
        """End the work; calls what `telling` was given, once each time it is set."""
        super().set()
        with self._guard:
            told = list(self._told.values())
        for tell in told:
            tell()

    @contextmanager
    def telling(self, tell: Callable[[], None]) -> Iterator[None]:
        """Call `tell` when the event is set inside the block; at once if it is set already."""
        key = object()
        with self._guard:
            self._told[key] = tell
        try:
            if self.is_set():
                tell()
            yield
        finally:
            with self._guard:
                del self._told[key]


def check(cancelled: threading.Event | None) -> None:
    """Go on unless the work has been cancelled.

    Raises:
        CancelledError: it has.
    """
    if cancelled is not None and cancelled.is_set():
        raise CancelledError("The work was cancelled before it was done.")


T = TypeVar("T")


async def in_thread(work: Callable[[Cancellation], T]) -> T:
    """Run `work` in a thread of its own, so that no event loop and no shared pool waits for it.

    Cancelling the task sets the Cancellation that `work` was given, and does not wait for the thread to end.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    cancelled = Cancellation()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast(T, result))
        elif isinstance(error, StopIteration):  # which no future takes
            future.set_exception(RuntimeError(repr(error)))
        else:
            future.set_exception(error)

    def run() -> None:
        result, raised = None, None
        try:
            result = work(cancelled)
        except BaseException as error:
            raised = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, raised)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="spec-rag-work", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        cancelled.set()
        raise
