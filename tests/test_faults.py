"""A request that runs out of memory or fails in the middle names the model and what to change; the next is served."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from model_faults import (
    SPECKV,
    SPECPC,
    TEXTS,
    _noting_caches,  # noqa: F401
    answered,
    breaking,
    full_cpu,
    full_gpu,
    leaving_nothing,
    shortened,
    streamed,
)
from threads import until_waiting
from tiny import random_ids, tiny_model, tiny_pair

from spec_rag import (
    ContextCache,
    DocumentIndex,
    ModelPair,
    generate,
    generate_batch,
    score_prompt,
)
from spec_rag.compression.passage_encoding import index_documents
from spec_rag.errors import CancelledError, OutOfMemoryError, SpecRagError
from spec_rag.generation.answer_likelihood import answer_likelihood
from spec_rag.generation.batcher import Batcher, QueuedRequest
from spec_rag.generation.client import GenerationClient
from spec_rag.generation.request import GenerationRequest
from spec_rag.models import loading
from spec_rag.models.error_context import error_context, is_out_of_memory, ways_of_loading
from spec_rag.options.compression import CompressionConfig
from spec_rag.results import Answer
from spec_rag.utils.fair_lock import FairLock


@pytest.mark.parametrize(("layer", "full"), [(0, full_gpu), (1, full_cpu), (2, full_cpu)])
@pytest.mark.parametrize(("role", "at_call"), [("draft", 1), ("draft", 2), ("target", 1), ("target", 2)])
def test_out_of_memory_at_any_depth_fails_one_request(role: str, layer: int, at_call: int, full: Callable) -> None:
    pair = tiny_pair()
    expected = answered(pair)
    with leaving_nothing(pair):
        with breaking(getattr(pair, role), layer, full, at_call), pytest.raises(OutOfMemoryError) as caught:
            answered(pair)
        said = str(caught.value)
        assert f"The {role} 'tiny-{role}' ran out of memory on cpu (it asked for " in said
        assert "a prefill_chunk_size below 32" in said
        assert "a shorter prompt than 150 tokens" in said
        assert said.endswith(f"{role}_options={{'dtype': 'bfloat16'}}; a smaller {role}.")
        assert ("max_new_tokens below 6" in said) == ("max_capacity_prompt of speckv below 40" in said)
        assert ("max_new_tokens" in said) == (role == "target")
        assert is_out_of_memory(caught.value.__cause__)
    assert answered(pair) == expected


@pytest.mark.parametrize(
    "where", ["spec_rag.attention.importance.window_scores", "spec_rag.generation.prefill.select_kv"]
)
def test_out_of_memory_while_it_is_scored_fails_one_request(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    expected = answered(pair)
    with leaving_nothing(pair), monkeypatch.context() as patched:
        patched.setattr(where, lambda *_, **__: full_cpu())
        with pytest.raises(OutOfMemoryError, match="The draft" if "importance" in where else "The target"):
            answered(pair)
    assert answered(pair) == expected


@pytest.mark.parametrize("role", ["draft", "target"])
def test_out_of_memory_ends_a_stream_and_not_the_next(role: str) -> None:
    pair = tiny_pair()
    expected = streamed(pair)
    with (
        leaving_nothing(pair),
        breaking(getattr(pair, role), 1, full_cpu, 2),
        pytest.raises(OutOfMemoryError, match=f"The {role} "),
    ):
        streamed(pair)
    assert streamed(pair) == expected


def test_what_is_said_to_change_is_what_was_asked_for() -> None:
    pair = tiny_pair()
    with breaking(pair.target, 0, full_cpu), pytest.raises(OutOfMemoryError) as caught:
        generate_batch(pair, [random_ids(600), random_ids(20)], max_new_tokens=2, num_beams=2)
    for way in ("prefill_chunk_size=512", "fewer prompts at once than 2", "speckv=SpecKVConfig(", "num_beams below 2"):
        assert way in str(caught.value)
    with breaking(pair.target, 0, full_cpu), pytest.raises(OutOfMemoryError) as caught:
        generate(pair, random_ids(40), max_new_tokens=2)
    for way in ("prefill_chunk_size", "fewer prompts", "speckv", "specpc", "num_beams"):
        assert way not in str(caught.value), "it would change nothing"
    with breaking(pair.draft, 0, full_cpu), pytest.raises(OutOfMemoryError, match="leaves the draft out"):
        generate(pair, random_ids(90), speckv=SPECKV, max_new_tokens=2)
    with breaking(pair.draft, 0, full_cpu), pytest.raises(OutOfMemoryError, match="The draft"):
        score_prompt(pair, random_ids(90), SPECPC)
    with breaking(pair.target, 0, full_cpu), pytest.raises(OutOfMemoryError, match="The target"):
        answer_likelihood(pair, random_ids(90), [5, 6])
    context = ContextCache.read(pair, random_ids(90))
    with breaking(pair.target, 0, full_cpu), pytest.raises(OutOfMemoryError, match="with a smaller keep"):
        generate(pair, random_ids(9), context=context, max_new_tokens=2)
    with breaking(pair.target, 0, full_cpu), pytest.raises(OutOfMemoryError, match="a shorter context than 90 tokens"):
        ContextCache.read(pair, random_ids(90))


def test_out_of_memory_while_documents_are_read_fails_one_question() -> None:
    pair = tiny_pair()
    expected = shortened(pair)
    for at_call, settings in ((1, {}), (2, {}), (1, {"scoring": "joint"})):
        with leaving_nothing(pair):
            with breaking(pair.draft, 1, full_cpu, at_call), pytest.raises(OutOfMemoryError) as caught:
                shortened(pair, **settings)
            assert "The draft 'tiny-draft' ran out of memory" in str(caught.value)
            assert "fewer documents at once than these, of 3 passages" in str(caught.value)
            assert ("scoring='per_document'" if settings else "cascade='always'") in str(caught.value)
        assert shortened(pair) == expected
    index = DocumentIndex()
    with breaking(pair.draft, 1, full_cpu), pytest.raises(OutOfMemoryError):
        index_documents(TEXTS, pair, index, CompressionConfig(calibration=None))
    assert index.held_bytes == 0
    assert shortened(pair, index=index)


def test_out_of_memory_while_a_model_is_loaded_says_how_it_takes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_load", lambda *_: full_cpu())
    with pytest.raises(OutOfMemoryError, match=r"'big' ran out of memory while it was loaded.*dtype='bfloat16'"):
        ModelPair.load("big", None)
    with pytest.raises(OutOfMemoryError) as caught:
        ModelPair.load("big", None, draft_options={"dtype": "float16"})
    assert "dtype" not in str(caught.value)


def test_ways_of_loading_are_those_that_are_left() -> None:
    model = tiny_model()
    assert ways_of_loading("draft", model) == ["draft_options={'dtype': 'bfloat16'}", "a smaller draft"]
    model.bfloat16()
    assert ways_of_loading("draft", model) == ["a smaller draft"]
    on_gpu = tiny_model().to("meta")
    ways = ways_of_loading("target", on_gpu)
    assert ways == ["target_options={'dtype': 'bfloat16'}", "target_options={'device': 'cpu'}", "a smaller target"]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("full"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_full_memory_is_known_on_every_device(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) == full
    with pytest.raises(OutOfMemoryError if full else type(error)) as caught, error_context("draft", "d", None, list):
        raise error
    assert caught.value.__cause__ is (error if full else None)


def test_other_errors_pass_as_they_are() -> None:
    pair = tiny_pair()

    def broken() -> None:
        raise RuntimeError("no such kernel")

    with breaking(pair.target, 1, broken), pytest.raises(RuntimeError, match="no such kernel") as caught:
        answered(pair)
    assert not isinstance(caught.value, SpecRagError)


def test_requests_are_tried_again_after_a_full_cpu_too() -> None:
    pair = tiny_pair()
    expected = generate(pair, random_ids(40), max_new_tokens=3).output_ids
    left = [1, 1]

    def full_at_first() -> None:
        if left and left.pop():
            full_cpu()

    with breaking(pair.target, 0, full_at_first):
        requests = GenerationClient(GenerationRequest.of(pair, max_new_tokens=3), retries=2)
        assert requests.answer(random_ids(40)).output_ids == expected
    with breaking(pair.target, 0, full_cpu), pytest.raises(OutOfMemoryError):
        GenerationClient(GenerationRequest.of(pair, max_new_tokens=3), retries=1).answer(random_ids(40))


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_is_begun_again_only_while_nothing_of_it_was_written(way: str) -> None:
    pair = tiny_pair()

    def pieces(retries: int) -> list[str | Answer]:
        requests = GenerationClient(GenerationRequest.of(pair, max_new_tokens=12), retries=retries)

        async def written() -> list[str | Answer]:
            return [piece async for piece in requests.astream(random_ids(40))]

        return asyncio.run(written()) if way == "astream" else list(requests.stream(random_ids(40)))

    *expected, whole = pieces(0)
    left = [1, 1]

    def full_at_first() -> None:
        if left and left.pop():
            full_cpu()

    with breaking(pair.target, 0, full_at_first):
        *again, answer = pieces(2)
    assert "".join(again) == "".join(expected)
    assert answer.output_ids == whole.output_ids
    with breaking(pair.target, 0, full_cpu), pytest.raises(OutOfMemoryError):
        pieces(1)
    space = pair.require_tokenizer().convert_tokens_to_ids("Ġ")  # what a stream hands on at once
    pair.target.generation_config.suppress_tokens = [token for token in range(320) if token != space]
    calls = 0

    def full_later() -> None:
        nonlocal calls
        calls += 1
        full_cpu()

    with breaking(pair.target, 0, full_later, at_call=9), pytest.raises(OutOfMemoryError):
        pieces(5)
    assert calls == 1, "what was written cannot be taken back"


class Held:
    """Stands for the memory of a batch."""


def ask_together(run: Callable[[Sequence[str]], Sequence[str]], *prompts: str) -> list[object]:
    """What becomes of requests that wait together for the first of them."""
    batcher: Batcher[str, str] = Batcher()
    lock, results = FairLock(), dict[str, object]()

    def ask(prompt: str) -> None:
        try:
            request = QueuedRequest[str, str](prompt, 5, repeatable=lambda: prompt != "begun")
            results[prompt] = batcher.answer(request, lambda batch: run([one.prompt for one in batch]), lock)
        except BaseException as error:
            results[prompt] = error

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    with lock.hold():
        for i, thread in enumerate(threads):
            thread.start()
            until_waiting(lock, i + 2)
    for thread in threads:
        thread.join(20)
    return [results[prompt] for prompt in prompts]


def test_a_batch_that_ran_out_of_memory_lets_go_of_it_before_its_rows_are_tried_alone() -> None:
    alive: list[weakref.ref[Held]] = []

    def run(prompts: Sequence[str]) -> list[str]:
        if len(prompts) > 1:
            held = Held()
            alive.append(weakref.ref(held))
            raise OutOfMemoryError("full")
        assert alive[0]() is None
        return [prompt.upper() for prompt in prompts]

    assert ask_together(run, "a", "b", "c") == ["A", "B", "C"]


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("prompts", [("a", "b", "begun"), ("a", "begun", "b")])
def test_a_thread_that_is_interrupted_takes_nobody_along(prompts: tuple[str, ...], alone: bool) -> None:
    interrupted = False

    def run(prompts: Sequence[str]) -> list[str]:
        nonlocal interrupted
        if alone and len(prompts) > 1:
            raise LookupError
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt
        return [prompt.upper() for prompt in prompts]

    results = dict(zip(prompts, ask_together(run, *prompts), strict=True))
    assert isinstance(results["a"], KeyboardInterrupt)
    assert results["b"] == "B"
    assert isinstance(results["begun"], LookupError if alone else CancelledError)
