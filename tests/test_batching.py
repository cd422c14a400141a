"""Requests that wait for the same models at the same time are answered in one batch."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from threads import until_waiting
from tiny import generate_together, random_ids, tiny_pair

from spec_rag import Cancellation, ContextCache, SpecKVConfig, generate, stream
from spec_rag.generation.batcher import MAX_ROWS, Batcher, QueuedRequest
from spec_rag.generation.row_streams import RowsStreamer
from spec_rag.utils.fair_lock import FairLock


class Asking:
    """Requests that all wait before the first of them is answered."""

    def __init__(self) -> None:
        self.batcher: Batcher[tuple[str, str], str] = Batcher()
        self.lock = FairLock()
        self.batches: list[list[str]] = []
        self.results: dict[int, object] = {}

    def run(self, requests: Sequence[QueuedRequest[tuple[str, str], str]]) -> list[str]:
        prompts = [request.prompt[0] for request in requests]
        self.batches.append(list(prompts))
        if "poison" in prompts:
            raise LookupError("poison")
        return [prompt.upper() for prompt in prompts]

    def __call__(self, *requests: tuple[str, int, str], cancelled: threading.Event | None = None) -> list[object]:
        def ask(number: int, prompt: str, length: int, kind: str) -> None:
            try:
                request = QueuedRequest[tuple[str, str], str](
                    (prompt, kind), length, lambda other: other[1] == kind, cancelled
                )
                self.results[number] = self.batcher.answer(request, self.run, self.lock)
            except LookupError as error:
                self.results[number] = error

        threads = [threading.Thread(target=ask, args=(i, *request)) for i, request in enumerate(requests)]
        with self.lock.hold():
            for i, thread in enumerate(threads):
                thread.start()
                until_waiting(self.lock, i + 2)
            if cancelled is not None:
                cancelled.set()
        for thread in threads:
            thread.join(20)
        return [self.results[i] for i in range(len(requests))]


def test_who_waits_for_the_same_is_answered_with_the_first() -> None:
    asking = Asking()
    assert asking(("a", 5, "k"), ("b", 6, "k"), ("c", 5, "k")) == ["A", "B", "C"]
    assert asking.batches == [["a", "b", "c"]]
    assert not asking.batcher._queue


def test_other_settings_or_very_other_lengths_are_answered_apart() -> None:
    asking = Asking()
    requests = [("a", 5, "k"), ("b", 5, "other"), ("c", 6, "k"), ("d", 500, "k"), ("e", 7, "k")]
    assert asking(*requests) == ["A", "B", "C", "D", "E"]
    assert asking.batches == [["a", "c", "e"], ["b"], ["d"]]


def test_a_batch_has_at_most_so_many_rows() -> None:
    asking = Asking()
    asking(*((f"p{i}", 5, "k") for i in range(MAX_ROWS + 2)))
    assert [len(batch) for batch in asking.batches] == [MAX_ROWS, 2]


def test_one_that_fails_does_not_fail_the_others() -> None:
    asking = Asking()
    first, poisoned, last = asking(("a", 5, "k"), ("poison", 5, "k"), ("c", 5, "k"))
    assert (first, last) == ("A", "C")
    assert isinstance(poisoned, LookupError)


def test_who_is_cancelled_while_waiting_gets_nothing_and_costs_nothing() -> None:
    asking = Asking()
    assert asking(("a", 5, "k"), ("b", 5, "k"), cancelled=Cancellation()) == [None, None]
    assert asking.batches == []
    assert not asking.batcher._queue


def test_threads_that_ask_together_get_what_they_would_get_alone_for_one_batch_of_steps() -> None:
    pair, config = tiny_pair(), SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=4)
    pair.target.generation_config.eos_token_id = None
    prompts = [random_ids(n, seed=n) for n in (60, 80, 48, 30)]
    alone = [generate(pair, prompt, speckv=config, max_new_tokens=6).output_ids for prompt in prompts]
    steps: list[int] = []
    hook = pair.target.register_forward_pre_hook(
        lambda model, args, given: steps.append(len(given["input_ids"])), with_kwargs=True
    )
    found: dict[int, list[int]] = {}

    def ask(i: int) -> None:
        found[i] = generate_together(pair, prompts[i], speckv=config, max_new_tokens=6).output_ids

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    with pair.lock.hold():
        for i, thread in enumerate(threads):
            thread.start()
            until_waiting(pair.lock, i + 2)
    for thread in threads:
        thread.join(60)
    hook.remove()
    assert [found[i] for i in range(4)] == alone
    assert steps == [4] * 6


def test_questions_on_two_contexts_that_wait_together_are_each_answered_on_their_own() -> None:
    pair, question = tiny_pair(), random_ids(9)
    contexts = [ContextCache.read(pair, random_ids(60, seed=seed), keep=1.0) for seed in (1, 2)]
    alone = [generate(pair, question, context=context, max_new_tokens=8).output_ids for context in contexts]
    assert alone[0] != alone[1]
    found: dict[int, list[int]] = {}

    def ask(i: int) -> None:
        found[i] = generate_together(pair, question, context=contexts[i], max_new_tokens=8).output_ids

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    with pair.lock.hold():
        for i, thread in enumerate(threads):
            thread.start()
            until_waiting(pair.lock, i + 2)
    for thread in threads:
        thread.join(60)
    assert [found[0], found[1]] == alone


def test_a_seeded_request_is_answered_alone() -> None:
    pair = tiny_pair()
    seeded = [generate_together(pair, random_ids(30), max_new_tokens=5, temperature=2.0, seed=3) for _ in range(2)]
    assert seeded[0].output_ids == seeded[1].output_ids


@pytest.mark.parametrize("after", [1, 3])
def test_a_request_that_runs_alone_can_be_cancelled(after: int) -> None:
    pair, cancelled, steps = tiny_pair(), Cancellation(), 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == after:
            cancelled.set()

    hook = pair.target.register_forward_pre_hook(count)
    answer = generate_together(pair, random_ids(30), max_new_tokens=400, eos_token_id=319, cancelled=cancelled)
    hook.remove()
    assert answer.finish_reason == "cancelled"
    assert steps <= after + 1


def test_streams_that_wait_together_are_written_in_one_batch_and_one_that_closes_ends_its_own_row() -> None:
    pair = tiny_pair()
    pair.target.generation_config.eos_token_id = None
    prompts = [random_ids(n, seed=n) for n in (40, 44, 48)]
    alone = [generate(pair, prompt, max_new_tokens=30) for prompt in prompts]
    steps: list[int] = []

    def count(model: torch.nn.Module, args: tuple[object, ...], given: dict[str, torch.Tensor]) -> None:
        steps.append(len(given["input_ids"]))
        if len(steps) == 10:
            streams[1].cancel()

    hook = pair.target.register_forward_pre_hook(count, with_kwargs=True)
    with pair.lock.hold():
        streams = [stream(pair, prompt, max_new_tokens=30) for prompt in prompts]
        until_waiting(pair.lock, 4)
    texts = ["".join(pieces) for pieces in streams]
    hook.remove()
    assert [texts[0], texts[2]] == [alone[0].text, alone[2].text]
    assert [one.answer.output_ids for one in (streams[0], streams[2])] == [alone[0].output_ids, alone[2].output_ids]
    assert streams[1].answer.finish_reason == "cancelled"
    assert steps == [3] * 30


def test_a_row_of_a_stream_ends_with_its_end_token_before_its_batch_does() -> None:
    told: list[list[object]] = [[], []]

    class Told:
        begun = False

        def __init__(self, into: list[object]) -> None:
            self.into = into

        def start(self) -> None:
            self.into.append("start")

        def put(self, value: torch.Tensor) -> None:
            self.into.append(value.tolist())

        def end(self) -> None:
            self.into.append("end")

    streamer = RowsStreamer([Told(told[0]), None, Told(told[1])], ends=[9])
    for value in ([[1, 2], [1, 2], [3, 4]], [5, 5, 6], [9, 5, 6], [0, 5, 7]):
        streamer.put(torch.tensor(value))
    streamer.end()
    assert told == [["start", [1, 2], [5], [9], "end"], ["start", [3, 4], [6], [6], [7], "end"]]
