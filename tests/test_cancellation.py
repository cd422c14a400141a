"""Work that can be cancelled, and threads that an event loop can let go of."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from tiny import random_ids, tiny_pair

from spec_rag import stream
from spec_rag.errors import CancelledError
from spec_rag.utils.cancellation import Cancellation, check, in_thread


def test_who_asked_to_be_told_is_told_once_inside_the_block_alone() -> None:
    cancelled, told = Cancellation(), []
    with cancelled.calling(lambda: told.append("a")):
        assert told == []
        cancelled.set()
    cancelled.set()
    assert told == ["a"]
    with cancelled.calling(lambda: told.append("late")):
        assert told == ["a", "late"]


def test_checking_raises_only_what_was_cancelled() -> None:
    check(None)
    event = threading.Event()
    check(event)
    event.set()
    with pytest.raises(CancelledError):
        check(event)


async def test_work_runs_in_a_thread_of_its_own_with_the_callers_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    variable.set("mine")
    thread, value = await in_thread(lambda cancelled: (threading.current_thread(), variable.get()))
    assert thread is not threading.main_thread()
    assert value == "mine"


async def test_an_error_of_the_work_reaches_the_caller() -> None:
    def fail(cancelled: Cancellation) -> None:
        raise LookupError("lost")

    def stop(cancelled: Cancellation) -> None:
        raise StopIteration

    with pytest.raises(LookupError, match="lost"):
        await in_thread(fail)
    with pytest.raises(RuntimeError, match="StopIteration"):  # which no future takes
        await in_thread(stop)


async def test_cancelling_the_task_cancels_the_work_and_waits_for_nothing() -> None:
    begun, ended, go_on = threading.Event(), threading.Event(), threading.Event()
    seen: list[bool] = []

    def work(cancelled: Cancellation) -> None:
        begun.set()
        cancelled.wait(20)
        seen.append(cancelled.is_set())
        go_on.wait(20)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ended.is_set()
    go_on.set()
    await asyncio.to_thread(ended.wait, 20)
    assert seen == [True]


async def test_many_works_do_not_wait_for_each_other() -> None:
    """More than a pool of threads would run at once."""
    count = 40
    together = threading.Barrier(count)
    assert await asyncio.gather(*(in_thread(lambda cancelled: together.wait(20) >= 0) for _ in range(count))) == (
        [True] * count
    )


def test_a_stream_counts_what_was_written_also_when_it_is_closed_early() -> None:
    pair = tiny_pair()
    whole = stream(pair, random_ids(40), max_new_tokens=9, eos_token_id=-1)
    assert whole.written_tokens <= 9
    list(whole)
    assert whole.answer is not None
    assert whole.written_tokens == whole.answer.completion_tokens == 9
    early = stream(pair, random_ids(40), max_new_tokens=3000, eos_token_id=-1)
    next(early)
    early.close()
    assert 0 < early.written_tokens < 3000
