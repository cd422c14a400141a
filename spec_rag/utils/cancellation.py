"""Work that can be cancelled: a signal that wakes those who wait, and threads that an event loop can let go of.

This module does not know the work.
"""

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
    """An event that tells those who asked to be told when it is set."""

    wakes = True  # those who asked are told, whatever cancels the work

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[object, Callable[[], None]] = {}  # each operation on a dict is atomic
        renew_in_children(self)

    def set(self) -> None:
        """End the work; calls what `telling` was given, once each time it is set."""
        super().set()
        for tell in list(self._told.values()):
            tell()

    def telling(self, tell: Callable[[], None]) -> Switch[None]:
        """Call `tell` when the event is set inside the block; at once if it is set already."""
        return _Telling(self, tell)

    def ask(self, key: object, tell: Callable[[], None]) -> None:
        """Call `tell` when the event is set, until `forget(key)`."""
        self._told[key] = tell

    def forget(self, key: object) -> None:
        """Take `ask` back; a key that did not ask is ignored."""
        self._told.pop(key, None)

    def renew_in_child(self) -> None:
        """Free the event's own lock in a forked child; those who asked in other threads are not there."""
        self._at_fork_reinit()  # type: ignore[attr-defined]  # as threading does for the events of its threads


class LinkedCancellation(Cancellation):
    """A Cancellation of one call, which counts as set where the caller's own event is set.

    Setting it leaves the caller's event as it is.

    Args:
        caller: the caller's event. Where it is no Cancellation, nobody is told when it is set.
    """

    def __init__(self, caller: threading.Event) -> None:
        super().__init__()
        self._caller = caller
        self.wakes = isinstance(caller, Cancellation) and caller.wakes

    def is_set(self) -> bool:
        """Whether the call or its caller is cancelled."""
        return super().is_set() or self._caller.is_set()

    def ask(self, key: object, tell: Callable[[], None]) -> None:
        """Call `tell` when either event is set, until `forget(key)`."""
        super().ask(key, tell)
        if isinstance(self._caller, Cancellation):
            self._caller.ask(key, tell)

    def forget(self, key: object) -> None:
        """Take `ask` back; a key that did not ask is ignored."""
        super().forget(key)
        if isinstance(self._caller, Cancellation):
            self._caller.forget(key)


class _Telling(Switch[None]):
    """Asks to be told, and takes that back."""

    def __init__(self, cancellation: Cancellation, tell: Callable[[], None]) -> None:
        self._cancellation = cancellation
        self._tell = tell
        self._key = object()

    def _on(self) -> None:
        self._cancellation.ask(self._key, self._tell)
        if self._cancellation.is_set():
            self._tell()

    def _off(self) -> None:
        self._cancellation.forget(self._key)


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
