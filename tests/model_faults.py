"""Models that fail in the middle of a request, and checks that nothing of it is left."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import random_ids
from transformers import Cache

from spec_rag import (
    ModelPair,
    SpecKVConfig,
    SpecPCConfig,
    compress,
    generate,
    stream,
)
from spec_rag.attention import capture as capturing
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
