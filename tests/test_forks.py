"""A forked child works, whatever the other threads of its parent were doing at the fork."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny import generate_together, random_ids, tiny_model, tiny_pair, tiny_tokenizer

import spec_rag
from spec_rag import Cancellation, DocumentIndex, ModelPair, SpecKVConfig, SpecPCConfig, compress, generate, stream
from spec_rag.attention import capture as capturing
from spec_rag.attention.capture import attention_configs, capture
from spec_rag.errors import ForkedError
from spec_rag.generation.chunked_feed_forward import chunked_feed_forward
from spec_rag.utils.fair_lock import FairLock, _Ticket
from spec_rag.utils.forking import new_lock
from spec_rag.utils.lru_cache import LRUCache

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

FORKS = 12
SECONDS = 60
TEXTS = [f"The gate of house {i} opens at {i}. The miller of house {i} sells flour. Rain falls." for i in range(6)]
SPECPC = SpecPCConfig(max_capacity_prompt=48, window_size=8, starting_layer_index=0)
SPECKV = SpecKVConfig(max_capacity_prompt=24, window_size=8)


def in_child(work: Callable[[], object]) -> str:
    """Run the work in a forked child: "" when it went well, what it raised, or that it hung."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                with os.fdopen(reading, "rb", closefd=False) as pipe:
                    return pipe.read().decode()
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return f"hung for {SECONDS} seconds"
    finally:
        os.close(reading)


@contextmanager
def meanwhile(works: list[Callable[[], object]]) -> Iterator[None]:
    """Threads that do these works again and again inside the block."""
    ended, errors = threading.Event(), list[BaseException]()

    def repeat(work: Callable[[], object]) -> None:
        try:
            while not ended.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(SECONDS)
    assert errors == []


@pytest.mark.parametrize("threads", [1, 2])
def test_children_forked_while_threads_compress_and_generate_all_finish(threads: int) -> None:
    pair, index, before = tiny_pair(), DocumentIndex(), torch.get_num_threads()

    def shorten() -> str:
        return compress(TEXTS, "When does the gate open?", draft=pair, ratio=0.5, index=index, calibration=None).text

    def answer() -> list[int]:
        return generate_together(pair, random_ids(150), SPECPC, SPECKV, 6, prefill_chunk_size=32).output_ids

    def sampled() -> list[int]:
        return generate(pair, random_ids(90), None, SPECKV, 4, temperature=1.0, seed=3).output_ids

    def streamed() -> str:
        return "".join(stream(pair, "The gate opens. " * 10, SPECPC, SPECKV, 4))

    def held() -> str:
        return generate(pair, "When?", max_new_tokens=8, regex="[ab]{3}").text

    jobs: list[Callable[[], object]] = [shorten, answer, sampled, streamed, held]
    try:
        torch.set_num_threads(threads)
        expected = [job() for job in jobs]

        def child() -> None:
            assert [job() for job in jobs] == expected
            assert capturing._active == []
            layers = [m for model in (pair.draft, pair.target) for m in model.modules()]
            assert not any("forward" in layer.__dict__ for layer in layers)

        with meanwhile(jobs):
            outcomes = []
            for i in range(FORKS):
                time.sleep(0.013 * i)
                outcomes.append(in_child(child))
        assert outcomes == [""] * FORKS
    finally:
        torch.set_num_threads(before)


def test_what_another_thread_holds_is_free_in_a_child_and_what_the_forking_thread_holds_stays_its_own() -> None:
    lock, turn, model = new_lock(), FairLock(), tiny_model("llama", layers=1)
    turn._queue.append(_Ticket())  # of a thread that waits
    turn._queue[0].thread = 0
    (config,) = attention_configs(model)
    holding, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with lock, capture(model, lambda call: None), chunked_feed_forward([model], 8):
            holding.set()
            ended.wait(SECONDS)

    holder = threading.Thread(target=hold)
    holder.start()
    assert holding.wait(SECONDS)

    def child() -> None:
        assert turn.waiting == 0
        assert config._attn_implementation == "sdpa"
        assert "forward" not in model.get_decoder().layers[0].mlp.__dict__
        with lock, turn.hold() as mine:
            assert mine

    assert in_child(child) == ""
    ended.set()
    holder.join()
    turn._queue.clear()
    with lock, turn.hold():

        def own() -> None:
            assert turn.waiting == 1
            assert lock._is_owned()  # type: ignore[attr-defined]

        assert in_child(own) == ""


def test_a_fork_waits_for_a_model_that_runs_and_other_threads_wait_for_the_fork() -> None:
    turn, holding, other = FairLock(), threading.Event(), FairLock()

    def hold() -> None:
        with turn.hold():
            holding.set()
            time.sleep(0.3)

    def child() -> None:
        with turn.hold() as mine, other.hold() as free:
            assert mine
            assert free

    holder = threading.Thread(target=hold)
    holder.start()
    assert holding.wait(SECONDS)
    started = time.monotonic()
    assert in_child(child) == ""
    assert time.monotonic() - started > 0.1
    holder.join()
    with turn.hold() as mine:
        assert mine, "the parent works as before"


def test_a_child_that_was_forked_while_a_model_ran_says_to_spawn() -> None:
    pair, holding, ended = tiny_pair(), threading.Event(), threading.Event()

    def hold() -> None:
        with FairLock().hold():
            holding.set()
            ended.wait(SECONDS)

    def child() -> None:
        with pytest.raises(ForkedError, match="'spawn'"):
            generate(pair, "gate", max_new_tokens=1)
        with pytest.raises(ForkedError, match="'spawn'"):
            compress(TEXTS, "When does the gate open?", draft=pair, ratio=0.5, calibration=None)

    holder = threading.Thread(target=hold)
    holder.start()
    assert holding.wait(SECONDS)
    outcome = in_child(child)
    ended.set()
    holder.join()
    assert outcome == ""
    assert generate(pair, "gate", max_new_tokens=1).completion_tokens == 1


def test_a_capture_of_the_forking_thread_goes_on_in_the_child() -> None:
    model = tiny_model("llama", layers=1)
    seen: list[int] = []

    def child() -> None:
        with torch.no_grad():
            model(random_ids(4)[None])
        assert seen == [0]

    with capture(model, lambda call: seen.append(call.layer)):
        assert in_child(child) == ""


def test_a_stream_of_the_parent_says_in_the_child_that_nothing_more_comes() -> None:
    pair = tiny_pair()
    with pair.lock.hold(), stream(pair, "The gate opens.", max_new_tokens=4) as waiting:

        def child() -> None:
            with pytest.raises(ForkedError, match="spawn"):
                list(waiting)

        time.sleep(0.05)
        assert in_child(child) == ""
        waiting.cancel()


def test_a_cancellation_works_in_a_child() -> None:
    cancelled, lock = Cancellation(), FairLock()

    def child() -> None:
        told: list[int] = []
        with cancelled.calling(lambda: told.append(1)):
            cancelled.set()
        assert told == [1]
        with lock.hold(cancelled) as mine:
            assert not mine

    taken, ended = threading.Event(), threading.Event()

    def occupy() -> None:
        with cancelled._cond:  # as a thread does that is inside set()
            taken.set()
            ended.wait(SECONDS)

    thread = threading.Thread(target=occupy)
    thread.start()
    assert taken.wait(SECONDS)
    assert in_child(child) == ""
    ended.set()
    thread.join()


def test_a_cache_that_was_being_changed_counts_again_in_the_child() -> None:
    cache: LRUCache[str, int] = LRUCache(100)
    cache.put("a", 1, 60)
    cache._held_bytes = 500  # as in the middle of a change by another thread

    def child() -> None:
        cache.put("b", 2, 30)
        assert (cache.get("a"), cache.get("b"), cache.held_bytes) == (1, 2, 90)

    assert in_child(child) == ""


def test_torch_runs_in_one_thread_in_a_child() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        matrix = torch.randn(400, 400)
        expected = (matrix @ matrix).exp().sum()

        def child() -> None:
            assert torch.get_num_threads() == 1
            torch.testing.assert_close((matrix @ matrix).exp().sum(), expected)

        assert in_child(child) == ""
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_renewed_in_children_is_not_kept_alive() -> None:
    pair = ModelPair(target=tiny_model("llama", layers=1), tokenizer=tiny_tokenizer())
    generate(pair, "gate", max_new_tokens=1)
    gone = [weakref.ref(pair.lock), weakref.ref(pair.target), weakref.ref(Cancellation())]
    del pair
    gc.collect()
    assert [one() for one in gone] == [None] * 3


def test_every_lock_of_the_package_is_made_for_forks() -> None:
    """A lock of threading itself stays locked in a child; new_lock() makes the others."""
    root = Path(spec_rag.__file__).parent.parent
    allowed = {
        "spec_rag/utils/forking.py": ["threading.RLock()"],
        "spec_rag/utils/fair_lock.py": ["threading.Lock()"],  # of a single waiter
        "spec_rag/utils/progress.py": ["threading.Event()"],  # local to one call, which sets it at its end
        "spec_rag/generation/streaming.py": ["threading.Condition()"] * 2,  # made again by renew_in_child
    }
    names = ("Lock(", "RLock(", "Condition(", "Event(", "Semaphore(", "Barrier(")
    for folder in ("spec_rag", "integrations", "kernels/spec_rag_kernels"):
        for path in sorted((root / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found = [f"threading.{name})" for name in names for _ in range(text.count(f"threading.{name})"))]
            assert found == allowed.get(str(path.relative_to(root)), []), path
