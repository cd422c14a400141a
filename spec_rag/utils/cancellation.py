"""Cancellation: an event with callbacks, and worker threads that an event loop can abandon."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, cast

from spec_rag.errors import CancelledError
from spec_rag.utils.forking import renew_in_children
from spec_rag.utils.switches import Switch


class Cancellation(threading.Event):
    """An event that calls registered callbacks when it is set."""

    wakes = True  # whether callbacks run for every way of cancelling

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: dict[object, Callable[[], None]] = {}  # each operation on a dict is atomic
        renew_in_children(self)

    def set(self) -> None:
        """Set the event and call each registered callback."""
        super().set()
        for callback in list(self._callbacks.values()):
            callback()

    def calling(self, callback: Callable[[], None]) -> Switch[None]:
        """Call `callback` when the event is set inside the block; immediately if it is already set."""
        return _Callback(self, callback)

    def add_callback(self, key: object, callback: Callable[[], None]) -> None:
        """Call `callback` when the event is set, until `remove_callback(key)`."""
        self._callbacks[key] = callback

    def remove_callback(self, key: object) -> None:
        """Remove a callback; an unknown key is ignored."""
        self._callbacks.pop(key, None)

    def renew_in_child(self) -> None:
        """Free the event's own lock in a forked child."""
        self._at_fork_reinit()  # type: ignore[attr-defined]  # as threading does for the events of its threads


class LinkedCancellation(Cancellation):
    """A Cancellation of one call that is also set if the caller's event is set.

    Setting it does not set the caller's event.

    Args:
        caller: the caller's event. If it is not a Cancellation, setting it runs no callbacks.
    """

    def __init__(self, caller: threading.Event) -> None:
        super().__init__()
        self._caller = caller
        self.wakes = isinstance(caller, Cancellation) and caller.wakes

    def is_set(self) -> bool:
        """Whether the call or its caller is cancelled."""
        return super().is_set() or self._caller.is_set()

    def add_callback(self, key: object, callback: Callable[[], None]) -> None:
        """Call `callback` when either event is set, until `remove_callback(key)`."""
        super().add_callback(key, callback)
        if isinstance(self._caller, Cancellation):
            self._caller.add_callback(key, callback)

    def remove_callback(self, key: object) -> None:
        """Remove a callback; an unknown key is ignored."""
        super().remove_callback(key)
        if isinstance(self._caller, Cancellation):
            self._caller.remove_callback(key)


class _Callback(Switch[None]):
    """Registers a callback and removes it."""

    def __init__(self, cancellation: Cancellation, callback: Callable[[], None]) -> None:
        self._cancellation = cancellation
        self._callback = callback
        self._key = object()

    def _on(self) -> None:
        self._cancellation.add_callback(self._key, self._callback)
        if self._cancellation.is_set():
            self._callback()

    def _off(self) -> None:
        self._cancellation.remove_callback(self._key)


def check(cancelled: threading.Event | None) -> None:
    """Raise if the work was cancelled.

    Raises:
        CancelledError: the event is set.
    """
    if cancelled is not None and cancelled.is_set():
        raise CancelledError("The work was cancelled before it was done.")


T = TypeVar("T")


async def in_thread(work: Callable[[Cancellation], T]) -> T:
    """Run `work` in a new thread, without blocking the event loop or a shared pool.

    Cancelling the task sets the Cancellation passed to `work` and does not wait for the thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    cancelled = Cancellation()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast(T, result))
        elif isinstance(error, StopIteration):  # futures reject StopIteration
            future.set_exception(RuntimeError(repr(error)))
        else:
            future.set_exception(error)

    def run() -> None:
        result, raised = None, None
        try:
            result = work(cancelled)
        except BaseException as error:
            raised = error
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(settle, result, raised)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="spec-rag-work", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        cancelled.set()
        raise
