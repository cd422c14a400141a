"""Requests that wait for the same models at the same time are answered in one batch.

Whoever gets the models takes along what waits behind it and asks for the same, and hands each its answer; nobody waits
for a batch to fill. This module does not know how answers are computed.
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
_MOST_PADDING = 2.0  # a batch is at most so much wider than its average row

P = TypeVar("P")
R = TypeVar("R")

Run: TypeAlias = Callable[[Sequence[P], Sequence[threading.Event | None]], Sequence[R]]


@dataclass(eq=False)
class _Waiting(Generic[P, R]):
    """A request in the queue, and what became of it."""

    prompt: P
    length: int
    kind: str
    cancelled: threading.Event | None
    result: R | None = None
    error: BaseException | None = None
    done: bool = field(default=False)
    thread: int = field(default_factory=threading.get_ident)


class Batcher(Generic[P, R]):
    """The queue of requests on one model."""

    def __init__(self) -> None:
        self._queue: deque[_Waiting[P, R]] = deque()  # each operation is atomic; the holder of the lock alone takes
        renew_in_children(self)

    def renew_in_child(self) -> None:
        """Take the requests of threads that are not in a forked child out of the queue."""
        own = [one for one in self._queue if one.thread == threading.get_ident()]
        self._queue.clear()
        self._queue.extend(own)

    def answer(
        self,
        prompt: P,
        length: int,
        kind: str,
        run: Run[P, R],
        lock: FairLock,
        cancelled: threading.Event | None,
        repeatable: Callable[[P], bool] = lambda prompt: True,
    ) -> R | None:
        """The answer to one prompt, perhaps computed by another thread together with its own.

        Args:
            prompt: what is asked.
            length: its tokens; prompts of very different lengths are not put into one batch.
            kind: requests of one kind may share a batch.
            run: answers prompts of this kind while the lock is held; is given the event that cancels each.
            lock: of the models.
            cancelled: ends the wait, and the prompt's share of a batch, when it is set.
            repeatable: whether a prompt may be answered once more after its batch has failed.

        Returns:
            None if it was cancelled while it waited.
        """
        own = _Waiting[P, R](prompt, length, kind, cancelled)
        taken: list[_Waiting[P, R]] = []
        try:
            self._queue.append(own)
            with lock.hold(cancelled) as mine:
                if mine and not own.done:
                    try:
                        self._take_along(own, taken)
                        self._run(taken, run, repeatable)
                    except BaseException:  # this thread alone is interrupted: the others wait on
                        self._give_back(taken[1:], repeatable)
                        raise
        finally:
            self._forget(own)
        if own.error is not None:
            raise own.error
        return own.result

    def _take_along(self, own: _Waiting[P, R], taken: list[_Waiting[P, R]]) -> None:
        """Note in `taken` the request and those that wait behind it and may share its batch; they leave the queue."""
        taken.append(own)
        for other in list(self._queue):
            fits = other is not own and other.kind == own.kind and len(taken) < MAX_ROWS
            if fits and not _is_set(other.cancelled) and _are_alike([one.length for one in [*taken, other]]):
                taken.append(other)
        for one in taken:
            self._forget(one)

    def _forget(self, one: _Waiting[P, R]) -> None:
        with contextlib.suppress(ValueError):  # an interrupted thread took it and never gave it back
            self._queue.remove(one)

    def _give_back(self, taken: Sequence[_Waiting[P, R]], repeatable: Callable[[P], bool]) -> None:
        """Put those that have no answer yet before all others in the queue."""
        for one in reversed(taken):
            if one.done or one in self._queue:
                continue
            if repeatable(one.prompt):
                self._queue.appendleft(one)
            else:
                one.error, one.done = CancelledError("The batch that it was answered in was interrupted."), True

    def _run(
        self,
        taken: Sequence[_Waiting[P, R]],
        run: Run[P, R],
        repeatable: Callable[[P], bool],
    ) -> None:
        if len(taken) > 1:
            again = []
            try:
                results = run([one.prompt for one in taken], [one.cancelled for one in taken])
            except Exception as error:  # one of them may be the cause: the others must not suffer for it
                for one in taken:
                    if repeatable(one.prompt):
                        again.append(one)
                    else:
                        one.error, one.done = error, True
            else:
                for one, result in zip(taken, results, strict=True):
                    one.result, one.done = result, True
            for one in again:  # when the error, and what its frames hold, is gone
                self._run([one], run, repeatable)
            return
        (one,) = taken
        try:
            (one.result,) = run([one.prompt], [one.cancelled])
        except Exception as error:
            one.error = error
        one.done = True


def _are_alike(lengths: Sequence[int]) -> bool:
    return max(lengths) <= _MOST_PADDING * sum(lengths) / len(lengths)


def _is_set(event: threading.Event | None) -> bool:
    return event is not None and event.is_set()
