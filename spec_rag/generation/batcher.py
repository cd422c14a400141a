"""Batching of requests that wait for the same model at the same time.

The thread that acquires the model's lock answers its own request together with compatible ones behind it in the queue.
No request waits for a batch to fill.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from spec_rag.errors import CancelledError
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.forking import renew_in_children

MAX_ROWS = 8
_MAX_PADDING = 2.0  # limit of a batch's width relative to its average row

P = TypeVar("P")
R = TypeVar("R")


@dataclass(eq=False)
class QueuedRequest(Generic[P, R]):
    """A request in the queue, and its result.

    Attributes:
        prompt: the content of the request.
        length: its tokens; prompts of very different lengths do not share a batch.
        compatible: whether another prompt may share its batch.
        cancelled: ends the wait, and the prompt's share of a batch, when it is set.
        repeatable: whether the prompt may be answered again after its batch failed.
        result, error: the outcome once `done` is True.
        thread: identifier of the thread that waits for it.
    """

    prompt: P
    length: int
    compatible: Callable[[P], bool] = lambda other: True
    cancelled: threading.Event | None = None
    repeatable: Callable[[], bool] = lambda: True
    result: R | None = None
    error: BaseException | None = None
    done: bool = False
    thread: int = field(default_factory=threading.get_ident)


Run: TypeAlias = Callable[[Sequence[QueuedRequest[P, R]]], Sequence[R]]


class Batcher(Generic[P, R]):
    """The queue of requests on one model."""

    def __init__(self) -> None:
        self._queue: deque[QueuedRequest[P, R]] = deque()  # each operation is atomic; only the lock's holder takes
        renew_in_children(self)

    def renew_in_child(self) -> None:
        """Remove the requests of threads that do not exist in a forked child."""
        remaining = [request for request in self._queue if request.thread == threading.get_ident()]
        self._queue.clear()
        self._queue.extend(remaining)

    def answer(self, request: QueuedRequest[P, R], run: Run[P, R], lock: FairLock) -> R | None:
        """The answer to a request, computed by this thread or in the batch of another one.

        Args:
            request: a new request.
            run: answers compatible requests while the lock is held.
            lock: the lock of the models.

        Returns:
            None if the request was cancelled while it waited.
        """
        batch: list[QueuedRequest[P, R]] = []
        try:
            self._queue.append(request)
            with lock.hold(request.cancelled) as acquired:
                if acquired and not request.done:
                    try:
                        self._collect(request, batch)
                        self._run(batch, run)
                    except BaseException:  # only this thread is interrupted: the others keep waiting
                        self._requeue(batch[1:])
                        raise
        finally:
            self._remove(request)
        if request.error is not None:
            raise request.error
        return request.result

    def _collect(self, first: QueuedRequest[P, R], batch: list[QueuedRequest[P, R]]) -> None:
        """Move the request and the compatible ones that wait from the queue to `batch`."""
        batch.append(first)
        for other in list(self._queue):
            fits = other is not first and len(batch) < MAX_ROWS and first.compatible(other.prompt)
            is_cancelled = other.cancelled is not None and other.cancelled.is_set()
            if fits and not is_cancelled and _have_similar_lengths([*batch, other]):
                batch.append(other)
        for request in batch:
            self._remove(request)

    def _remove(self, request: QueuedRequest[P, R]) -> None:
        with contextlib.suppress(ValueError):  # already removed, or taken by a thread that was interrupted
            self._queue.remove(request)

    def _requeue(self, batch: Sequence[QueuedRequest[P, R]]) -> None:
        """Put the requests without a result back to the front of the queue."""
        for request in reversed(batch):
            if request.done or request in self._queue:
                continue
            if request.repeatable():
                self._queue.appendleft(request)
            else:
                request.error = CancelledError("The batch that it was answered in was interrupted.")
                request.done = True

    def _run(self, batch: Sequence[QueuedRequest[P, R]], run: Run[P, R]) -> None:
        failed: list[QueuedRequest[P, R]] = []
        try:
            for request, result in zip(batch, run(batch), strict=True):
                request.result, request.done = result, True
        except Exception as error:
            for request in batch:
                if len(batch) > 1 and request.repeatable():  # one of the others may be the cause
                    failed.append(request)
                else:
                    request.error, request.done = error, True
        for request in failed:  # outside of the handler: the error's frames hold the memory of the batch
            self._run([request], run)


def _have_similar_lengths(requests: Sequence[QueuedRequest[P, R]]) -> bool:
    lengths = [request.length for request in requests]
    return max(lengths) <= _MAX_PADDING * sum(lengths) / len(lengths)
