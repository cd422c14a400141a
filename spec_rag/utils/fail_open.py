"""Work with a deadline, and which errors a caller goes on from with the original text."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from spec_rag.errors import CancelledError, ConfigError, MissingDependencyError
from spec_rag.utils.cancellation import Cancellation, LinkedCancellation

T = TypeVar("T")


def within(
    work: Callable[[threading.Event | None], T], seconds: float | None, cancelled: threading.Event | None = None
) -> T:
    """The result of the work. With a deadline it runs in a thread, which is left to itself when the time is up.

    Args:
        work: called with the event that cancels it.
        seconds: the deadline; None runs the work in this thread.
        cancelled: the caller's event, or None.

    Raises:
        TimeoutError: the deadline has passed.
    """
    if seconds is None:
        return work(cancelled)
    own = Cancellation() if cancelled is None else LinkedCancellation(cancelled)
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((work(own), None))
        except BaseException as error:
            outcome.extend((None, error))

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="spec-rag-deadline", daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    finally:
        if thread.is_alive():
            own.set()
    if not outcome:
        raise TimeoutError(f"deadline_seconds={seconds}: the time was up before the text was shortened.")
    result, error = outcome
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def is_fault(error: BaseException) -> bool:
    """Whether an error is neither a wrong argument, nor a cancellation, nor a missing package."""
    own = (ConfigError, CancelledError, MissingDependencyError)
    return isinstance(error, Exception) and not isinstance(error, own)


def fault_reason(error: BaseException) -> str:
    """A short reason for headers, metrics and results, without text of a document."""
    if isinstance(error, TimeoutError):
        return "deadline"
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"error {type(error).__name__}"
