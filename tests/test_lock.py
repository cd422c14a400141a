"""A lock that serves in the order of arrival, and can be waited for with a way out."""

from __future__ import annotations

import threading

import pytest
from threads import until_waiting

from spec_rag.utils.cancellation import Cancellation
from spec_rag.utils.fair_lock import FairLock


def test_waiters_are_served_in_the_order_in_which_they_came() -> None:
    lock, served, threads = FairLock(), [], []

    def work(number: int) -> None:
        with lock.hold():
            served.append(number)

    with lock.hold():
        for number in range(6):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
            until_waiting(lock, number + 2)
    for thread in threads:
        thread.join()
    assert served == list(range(6))
    assert lock.waiting == 0


@pytest.mark.parametrize("kind", [Cancellation, threading.Event])
def test_a_cancelled_waiter_leaves_the_queue_and_the_next_moves_up(kind: type[threading.Event]) -> None:
    lock, cancelled, seen = FairLock(), kind(), []

    def wait(event: threading.Event | None, name: str) -> None:
        with lock.hold(event) as mine:
            seen.append((name, mine))

    with lock.hold():
        first = threading.Thread(target=wait, args=(cancelled, "first"))
        first.start()
        until_waiting(lock, 2)
        second = threading.Thread(target=wait, args=(None, "second"))
        second.start()
        until_waiting(lock, 3)
        cancelled.set()
        first.join(20)
        assert seen == [("first", False)]
        assert lock.waiting == 2
    second.join(20)
    assert seen == [("first", False), ("second", True)]


def test_what_was_cancelled_before_never_gets_the_lock() -> None:
    lock, cancelled = FairLock(), Cancellation()
    cancelled.set()
    with lock.hold(cancelled) as mine:
        assert not mine
        with lock.hold() as other:
            assert other, "who gave up holds nothing"


def test_an_error_inside_frees_the_lock() -> None:
    lock = FairLock()
    with pytest.raises(LookupError), lock.hold():
        raise LookupError
    with lock.hold() as mine:
        assert mine
