"""A request that fails in the middle says why, and the next is served as if nothing had been."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import random_ids, tiny_pair

from spec_rag import ModelPair, SpecKVConfig, SpecPCConfig, compress, generate
from spec_rag.attention.capture import attention_configs

SPECPC = SpecPCConfig(max_capacity_prompt=80, window_size=16, kernel_size=8, starting_layer_index=1)
SPECKV = SpecKVConfig(max_capacity_prompt=40, lookahead_tokens=4)
TEXTS = [f"Gate {i} opens at {i + 5} o'clock. Keeper {i} holds key {i * 17}." for i in range(3)]


def answered(pair: ModelPair) -> list[int]:
    return generate(pair, random_ids(150), SPECPC, SPECKV, 6).output_ids


def implementations(pair: ModelPair) -> list[Any]:
    models = (pair.draft, pair.target)
    return [config._attn_implementation for model in models for config in attention_configs(model)]


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("role", ["draft", "target"])
@pytest.mark.parametrize("call", [1, 2])
def test_out_of_memory_at_any_depth_fails_one_request(role: str, layer: int, call: int) -> None:
    pair = tiny_pair()
    expected, before = answered(pair), implementations(pair)
    calls = 0

    def fail(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = getattr(pair, role).get_decoder().layers[layer].register_forward_pre_hook(fail)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            answered(pair)
    finally:
        hook.remove()
    assert implementations(pair) == before, "no attention stays switched"
    assert answered(pair) == expected


def test_out_of_memory_while_documents_are_read_fails_one_question() -> None:
    pair = tiny_pair()

    def asked() -> str:
        return compress(TEXTS, "Who holds key 17?", draft=pair, ratio=0.5, calibration=None).text

    expected, before = asked(), implementations(pair)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = pair.draft.get_decoder().layers[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            asked()
    finally:
        hook.remove()
    assert implementations(pair) == before
    assert asked() == expected


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
