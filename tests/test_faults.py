"""A request that fails in the middle says which model it was and what to change; the next is served as ever."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from threads import until_waiting
from tiny import random_ids, tiny_model, tiny_pair
from transformers import Cache

from spec_rag import (
    ContextCache,
    DocumentIndex,
    ModelPair,
    SpecKVConfig,
    SpecPCConfig,
    compress,
    generate,
    generate_batch,
    score_prompt,
    stream,
)
from spec_rag.attention import capture as capturing
from spec_rag.compression.passage_encoding import index_documents
from spec_rag.errors import CancelledError, NotFiniteError, OutOfMemoryError, SpecRagError
from spec_rag.generation.answer_likelihood import answer_likelihood
from spec_rag.generation.batcher import Batcher, QueuedRequest
from spec_rag.generation.client import GenerationClient
from spec_rag.generation.request import GenerationRequest
from spec_rag.models import loading
from spec_rag.models.error_context import check_finite, error_context, is_out_of_memory, ways_of_loading
from spec_rag.options.compression import CompressionConfig
from spec_rag.results import Answer
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.object_state import state_of

SPECPC = SpecPCConfig(max_capacity_prompt=80, window_size=16, kernel_size=8, starting_layer_index=1)
SPECKV = SpecKVConfig(max_capacity_prompt=40, lookahead_tokens=4)
TEXTS = [f"Gate {i} opens at {i + 5} o'clock. Keeper {i} holds key {i * 17}." for i in range(3)]
QUESTION = "Who holds key 17?"


def full_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB.")


def full_cpu() -> None:
    torch.empty(2**52)  # what the allocator of the CPU says itself


@contextmanager
def breaking(model: Any, layer: int, fail: Callable[[], None], at_call: int = 1) -> Iterator[None]:
    """The model's layer fails when it is run for that time, and from then on."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls >= at_call:
            fail()

    hook = model.get_decoder().layers[layer].register_forward_pre_hook(count)
    try:
        yield
    finally:
        hook.remove()
    assert calls >= at_call, "the fault never came"


@contextmanager
def poisoned(model: Any, layer: int, value: float = float("nan"), at_call: int = 1) -> Iterator[None]:
    """The model's layer gives such numbers from that call on."""
    calls = 0

    def spoil(_module: object, _args: object, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < at_call:
            return output
        return (output[0] * value, *output[1:]) if isinstance(output, tuple) else output * value

    hook = model.get_decoder().layers[layer].register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()
    assert calls >= at_call, "the fault never came"


_caches: weakref.WeakSet[Any] = weakref.WeakSet()


@pytest.fixture(autouse=True)
def _noting_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cache that is made is known while it lives."""
    init = Cache.__init__

    def noted(self: Cache, *given: Any, **options: Any) -> None:
        init(self, *given, **options)
        _caches.add(self)

    monkeypatch.setattr(Cache, "__init__", noted)


@contextmanager
def leaving_nothing(pair: ModelPair) -> Iterator[None]:
    """Inside, a request fails: afterwards the models are as they were, and no cache is held, not even by the error."""
    models = (pair.draft, pair.target)

    def state() -> list[object]:
        hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for model in models for m in model.modules()]
        attention = [c._attn_implementation for model in models for c in capturing.attention_configs(model)]
        replaced = ["forward" in m.__dict__ for model in models for m in model.modules()]
        waiting = [pair.lock.waiting, state_of(pair.draft, FairLock).waiting]
        return [hooks, attention, replaced, list(capturing._active), waiting]

    before = state()
    _caches.clear()
    yield
    assert state() == before
    assert not list(_caches)


def answered(pair: ModelPair) -> list[int]:
    return generate(pair, random_ids(150), SPECPC, SPECKV, 6, prefill_chunk_size=32).output_ids


def streamed(pair: ModelPair) -> str:
    return "".join(stream(pair, "The gate opens. " * 10, SPECPC, SPECKV, 6))


def shortened(pair: ModelPair, **settings: Any) -> str:
    return compress(TEXTS, QUESTION, draft=pair, ratio=0.5, calibration=None, **settings).text


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
    for at_call, settings in ((1, {}), (2, {}), (3, {}), (1, {"scoring": "joint"})):
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
def test_a_thread_that_is_interrupted_takes_nobody_along(alone: bool) -> None:
    interrupted = False

    def run(prompts: Sequence[str]) -> list[str]:
        nonlocal interrupted
        if alone and len(prompts) > 1:
            raise LookupError
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt
        return [prompt.upper() for prompt in prompts]

    first, second, begun = ask_together(run, "a", "b", "begun")
    assert isinstance(first, KeyboardInterrupt)
    assert second == "B"
    assert isinstance(begun, LookupError if alone else CancelledError)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("layer", "value"), [(0, NAN), (-1, INF)])
@pytest.mark.parametrize(("role", "at_call"), [("draft", 1), ("draft", 3), ("target", 1), ("target", 2)])
def test_numbers_that_are_none_give_no_answer(role: str, at_call: int, layer: int, value: float) -> None:
    pair = tiny_pair()
    expected = answered(pair)
    with leaving_nothing(pair):
        with poisoned(getattr(pair, role), layer, value, at_call), pytest.raises(NotFiniteError) as caught:
            answered(pair)
        assert f"The {role} 'tiny-{role}' (float32 on cpu) computed " in str(caught.value)
        assert f"{role}_options={{'attn_implementation': 'eager'}}" in str(caught.value)
        assert "dtype" not in str(caught.value), "there is no wider one"
    assert answered(pair) == expected


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True, "seed": 1, "top_k": 5}, {"num_beams": 2}, {"regex": "[a-z ]{3}"}]
)
@pytest.mark.parametrize("speckv", [None, SPECKV, SpecKVConfig(max_capacity_prompt=40, lookahead="target")])
def test_however_tokens_are_chosen_none_is_chosen_by_nan(options: dict[str, Any], speckv: SpecKVConfig | None) -> None:
    if "regex" in options:
        pytest.importorskip("llguidance")
    pair = tiny_pair()
    prompt = random_ids(90)
    expected = generate(pair, prompt, speckv=speckv, max_new_tokens=4, **options).output_ids
    with poisoned(pair.target, -1), pytest.raises(NotFiniteError, match=r"The target .* logits"):
        generate(pair, prompt, speckv=speckv, max_new_tokens=4, **options)
    assert generate(pair, prompt, speckv=speckv, max_new_tokens=4, **options).output_ids == expected


def test_a_row_that_is_spoilt_does_not_fail_what_waits_with_it() -> None:
    pair = tiny_pair()
    with poisoned(pair.target, 1), pytest.raises(NotFiniteError):
        list(stream(pair, "Gate 1 opens.", max_new_tokens=3))
    assert list(stream(pair, "Gate 1 opens.", max_new_tokens=3))


def test_tokens_may_be_ruled_out_and_prompts_padded() -> None:
    """What the checks must not refuse."""
    pair = tiny_pair()
    assert generate(pair, random_ids(20), max_new_tokens=3, suppress_tokens=list(range(4, 300))).completion_tokens
    batch = generate_batch(pair, [random_ids(150), random_ids(5)], SPECPC, SPECKV, 4)
    assert [answer.output_ids for answer in batch] == [
        generate(pair, random_ids(n), SPECPC, SPECKV, 4).output_ids for n in (150, 5)
    ]


def test_the_draft_s_scores_are_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    monkeypatch.setattr(
        "spec_rag.attention.importance.window_scores", lambda q, k, **_: torch.full((q.shape[0], k.shape[2]), NAN)
    )
    with pytest.raises(NotFiniteError, match=r"The draft .* token importances"):
        generate(pair, random_ids(150), SPECPC, max_new_tokens=2)
    with pytest.raises(NotFiniteError, match=r"The draft .* attention scores"):
        shortened(pair, scoring="joint")


@pytest.mark.parametrize(("layer", "at_call"), [(0, 1), (0, 2), (0, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2)])
def test_documents_read_with_nan_are_neither_shortened_nor_stored(layer: int, at_call: int) -> None:
    pair, index = tiny_pair(), DocumentIndex()
    expected = shortened(tiny_pair(), likelihood=True, cascade="never")
    with poisoned(pair.draft, layer, NAN, at_call), pytest.raises(NotFiniteError, match="The draft 'tiny-draft'"):
        shortened(pair, likelihood=True, cascade="never", index=index)
    assert shortened(pair, likelihood=True, cascade="never") == expected
    assert shortened(pair, likelihood=True, cascade="never", index=index) == shortened(
        tiny_pair(), likelihood=True, cascade="never", index=DocumentIndex()
    )


def test_a_context_read_with_nan_is_none_and_a_likelihood_neither() -> None:
    pair = tiny_pair()
    with poisoned(pair.target, 1), pytest.raises(NotFiniteError, match="The target"):
        ContextCache.read(pair, random_ids(90))
    with poisoned(pair.target, 1), pytest.raises(NotFiniteError, match=r"The target .* logits"):
        answer_likelihood(pair, random_ids(90), [5, 6])
    with poisoned(pair.draft, 1), pytest.raises(NotFiniteError, match="The draft"):
        score_prompt(pair, random_ids(150), SPECPC)
    assert len(score_prompt(pair, random_ids(150), SPECPC).selected) == 80


def test_a_narrow_type_is_told_to_be_widened() -> None:
    for dtype, says in (
        (torch.float16, "{'dtype': 'bfloat16'} or {'dtype': 'float32'}"),
        (torch.bfloat16, "'float32'"),
    ):
        model = tiny_model(attn_implementation="eager").to(dtype)
        with pytest.raises(NotFiniteError) as caught, error_context("draft", "d", model, list):
            check_finite(torch.tensor([1.0, INF, -INF]), "logits")
        assert says in str(caught.value)
    model = tiny_model(attn_implementation="eager")
    with (
        pytest.raises(NotFiniteError, match="Probably its weights are damaged"),
        error_context("draft", "d", model, list),
    ):
        check_finite(torch.tensor(NAN), "logits")


def test_a_tokenizer_that_raises_fails_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    chat = [{"role": "user", "content": "Who holds key 17?"}]
    expected = generate(pair, chat, max_new_tokens=4).output_ids

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such vocabulary")

    with monkeypatch.context() as patched:
        patched.setattr(pair.tokenizer, "apply_chat_template", fail)
        with pytest.raises(RuntimeError, match="no such vocabulary"):
            generate(pair, chat, max_new_tokens=4)
    assert generate(pair, chat, max_new_tokens=4).output_ids == expected
