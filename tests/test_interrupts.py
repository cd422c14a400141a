"""Ctrl-C at any instruction leaves nothing switched on: an interrupt is raised at each of them in turn."""

from __future__ import annotations

import contextvars
import functools
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tiny import random_ids, tiny_model, tiny_pair
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import spec_rag
from spec_rag import SpecKVConfig, generate
from spec_rag.attention import capture as capturing
from spec_rag.attention.capture import attention_configs, capture
from spec_rag.generation import chunked_feed_forward as chunked
from spec_rag.generation.batcher import Batcher, QueuedRequest
from spec_rag.generation.chunked_feed_forward import chunked_feed_forward
from spec_rag.generation.sampling import _seeding, seeded
from spec_rag.utils import forking
from spec_rag.utils.cancellation import Cancellation
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.lru_cache import LRUCache
from spec_rag.utils.progress import _listener, listening

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OURS = str(Path(spec_rag.__file__).parent)
MOST = 5000


def in_a_thread(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a thread with a copy of the context.

    The trace also raises where the interpreter handles no signal. What that leaves set, such as a variable, ends
    with the thread.
    """

    @functools.wraps(test)
    def run(*given: Any, **named: Any) -> None:
        context, errors = contextvars.copy_context(), list[BaseException]()

        def body() -> None:
            try:
                context.run(test, *given, **named)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        for error in errors:
            raise error

    return run


def interrupted_at(instruction: int, work: Callable[[], object]) -> bool:
    """Run the work, and raise KeyboardInterrupt before that instruction of the package; whether there is one."""
    left = instruction
    reached = False

    def trace(frame: FrameType, event: str, given: object) -> Any:
        nonlocal left, reached
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        if event in ("opcode", "call") and not reached:
            if left == 0:
                reached = True
                raise KeyboardInterrupt
            left -= 1
        return trace

    before = sys.gettrace()
    with suppress(KeyboardInterrupt):
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(before)
    release_leaked_locks()
    return reached


def free_for_others(*locks: FairLock) -> None:
    """Another thread gets each lock."""
    taken: list[bool] = []

    def take() -> None:
        for lock in locks:
            with lock.hold() as mine:
                taken.append(mine)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(20)
    assert taken == [True] * len(locks)


def release_leaked_locks() -> None:
    """Release the package's locks that this thread still holds.

    The trace raises at every instruction. A signal does not arrive between the end of a block and the call of
    `__exit__`, where the trace does raise and the lock stays locked.
    """
    for lock in list(forking._locks):
        while lock._is_owned():
            lock.release()


def at_each_instruction(work: Callable[[], object], check: Callable[[], None]) -> int:
    for instruction in range(MOST):
        if not interrupted_at(instruction, work):
            assert instruction > 20
            return instruction
        check()
    raise AssertionError("the work has more instructions than expected")


def inside(make: Callable[[], AbstractContextManager[Any]]) -> Callable[[], None]:
    def work() -> None:
        with make():
            pass

    return work


@in_a_thread
def test_a_capture_is_undone_wherever_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", layers=1)
    (config,) = attention_configs(model)

    def registered_anew() -> None:
        for registry in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
            for name in [name for name in registry._global_mapping if name.startswith("spec_rag_")]:
                del registry._global_mapping[name]

    def work() -> None:
        with capture(model, lambda call: None):
            assert config._attn_implementation == "spec_rag_observed_sdpa"

    def check() -> None:
        assert config._attn_implementation == "sdpa"
        assert capturing._active == []
        free_for_others(capturing._switching)
        seen: list[int] = []
        with capture(model, lambda call: seen.append(call.layer)), torch.no_grad():
            model(random_ids(4)[None])
        assert seen == [0]
        registered_anew()

    registered_anew()
    at_each_instruction(work, check)


@in_a_thread
def test_a_capture_inside_another_is_undone_alone() -> None:
    model = tiny_model("llama", layers=1)
    (config,) = attention_configs(model)
    outer: list[int] = []
    with capture(model, lambda call: outer.append(call.layer)):

        def check() -> None:
            assert config._attn_implementation == "spec_rag_observed_sdpa"
            with torch.no_grad():
                model(random_ids(4)[None])
            assert outer == [0]
            outer.clear()

        at_each_instruction(inside(lambda: capture(model, lambda call: None)), check)
    assert config._attn_implementation == "sdpa"


def test_a_model_that_was_left_switched_can_still_be_pruned() -> None:
    pair = tiny_pair()
    config = SpecKVConfig(max_capacity_prompt=24, window_size=8, lookahead="none")
    expected = generate(pair, random_ids(80), speckv=config, max_new_tokens=4).output_ids
    for one in attention_configs(pair.target):
        one._attn_implementation = "spec_rag_observed_sdpa"
    assert generate(pair, random_ids(80), speckv=config, max_new_tokens=4).output_ids == expected


@in_a_thread
def test_reading_in_chunks_is_undone_wherever_it_is_interrupted() -> None:
    model = tiny_model("llama", layers=2)

    def check() -> None:
        free_for_others(chunked._switching)
        assert all("forward" not in layer.mlp.__dict__ for layer in model.get_decoder().layers)

    at_each_instruction(inside(lambda: chunked_feed_forward([model], 8)), check)


@in_a_thread
def test_a_lock_is_free_wherever_its_holder_is_interrupted() -> None:
    lock, cancelled = FairLock(), Cancellation()

    def check() -> None:
        assert lock.waiting == 0
        assert cancelled._callbacks == {}

    at_each_instruction(inside(lambda: lock.hold(cancelled)), check)


@in_a_thread
def test_a_waiter_that_is_interrupted_leaves_the_queue_and_the_next_moves_up() -> None:
    lock = FairLock()
    for instruction in range(MOST):
        served, entered, go = threading.Event(), threading.Event(), threading.Event()

        def hold(entered: threading.Event = entered, go: threading.Event = go) -> None:
            with lock.hold():
                entered.set()
                go.wait(20)

        def follow(served: threading.Event = served) -> None:
            with lock.hold():
                served.set()

        holder = threading.Thread(target=hold)
        holder.start()
        entered.wait(20)
        timer = threading.Timer(0.005, go.set)
        timer.start()
        reached = interrupted_at(instruction, inside(lock.hold))
        follower = threading.Thread(target=follow)
        follower.start()
        assert served.wait(20)
        for thread in (holder, follower, timer):
            thread.join()
        assert lock.waiting == 0
        if not reached:
            return


@in_a_thread
def test_a_seed_is_undone_wherever_it_is_interrupted() -> None:
    model = tiny_model("llama", layers=1)
    torch.manual_seed(7)
    before = torch.get_rng_state()

    def check() -> None:
        assert torch.equal(torch.get_rng_state(), before)
        free_for_others(_seeding)
        with seeded(3, model):
            pass

    at_each_instruction(inside(lambda: seeded(3, model)), check)


@in_a_thread
def test_a_listener_is_forgotten_wherever_it_is_interrupted() -> None:
    outer: list[str] = []
    with listening(lambda what, done, total: outer.append(what)):
        kept = _listener.get()

        def check() -> None:
            assert _listener.get() is kept

        at_each_instruction(inside(lambda: listening(lambda what, done, total: None)), check)
    assert _listener.get() is None


@in_a_thread
def test_a_batch_answers_others_wherever_a_request_is_interrupted() -> None:
    batcher: Batcher[int, int] = Batcher()
    lock = FairLock()

    def ask(prompt: int) -> int | None:
        return batcher.answer(QueuedRequest(prompt, 1), lambda batch: [2 * one.prompt for one in batch], lock)

    def check() -> None:
        assert ask(4) == 8
        assert lock.waiting == 0
        assert not batcher._queue
        free_for_others(lock)

    at_each_instruction(lambda: ask(3), check)


@in_a_thread
def test_a_cache_counts_its_bytes_wherever_it_is_interrupted() -> None:
    cache: LRUCache[int, str] = LRUCache(100)

    def check() -> None:
        assert cache.held_bytes == sum(size for _, size in cache._entries.values()) <= 100

    def work() -> None:
        for key in range(6):
            cache.put(key % 4, "value", 30)

    at_each_instruction(work, check)


def test_real_interrupts_leave_a_model_that_can_be_pruned() -> None:
    """SIGINT at random times while SpecKV answers; the model, the lock and the answers are as before."""
    pair = tiny_pair()
    config = SpecKVConfig(max_capacity_prompt=24, window_size=8, lookahead="draft", lookahead_tokens=2)

    def answer() -> list[int]:
        return generate(pair, random_ids(60), speckv=config, max_new_tokens=2, prefill_chunk_size=16, seed=1).output_ids

    expected = answer()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    generator = random.Random(5)
    try:
        for _ in range(60):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
                signal.setitimer(signal.ITIMER_REAL, generator.uniform(0.0005, 0.05))
                answer()
            except KeyboardInterrupt:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, previous)
            assert pair.lock.waiting == 0
            assert capturing._active == []
            free_for_others(capturing._switching, chunked._switching, _seeding, pair.lock)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert answer() == expected
