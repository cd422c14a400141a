"""Observing attention leaves no trace: not in other threads, not after errors."""

from __future__ import annotations

import threading

import pytest
import torch
from tiny import random_ids, tiny_model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spec_rag import ModelPair, SpecKVConfig, generate
from spec_rag.attention.capture import Replaced, attention_configs, base_attention, capture


def plain(model: torch.nn.Module, prompt: torch.Tensor) -> list[int]:
    return model.generate(prompt[None], max_new_tokens=8, do_sample=False)[0].tolist()


def test_an_observer_sees_every_layer_once_with_what_attention_gets() -> None:
    model = tiny_model("llama")
    calls = []
    with capture(model, lambda call: calls.append(call)), torch.no_grad():
        model(random_ids(20)[None])
    assert [call.layer for call in calls] == [0, 1, 2, 3]
    assert calls[0].query.shape == (1, 4, 20, 16)
    assert calls[0].key.shape == (1, 2, 20, 16)
    assert calls[0].scaling == pytest.approx(16**-0.5)


def test_an_observer_can_stand_in_for_attention() -> None:
    model, ids = tiny_model("llama"), random_ids(20)[None]
    with torch.no_grad():
        expected = model(ids).logits
        with capture(model, lambda call: Replaced(torch.zeros_like(call.query))):
            assert not torch.allclose(model(ids).logits, expected)
        torch.testing.assert_close(model(ids).logits, expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_an_exception_inside_a_forward_pass_leaves_no_trace(implementation: str) -> None:
    model = tiny_model("llama", attn_implementation=implementation)
    prompt = random_ids(30)
    before = plain(model, prompt)
    names = [config._attn_implementation for config in attention_configs(model)]

    def fails(call: object) -> None:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), capture(model, fails):
        model(prompt[None])
    assert [config._attn_implementation for config in attention_configs(model)] == names
    assert plain(model, prompt) == before


def test_threads_with_different_settings_on_one_model_do_not_meet() -> None:
    model, prompt = tiny_model("llama"), random_ids(120)
    pair = ModelPair(target=model)
    configs = [
        None,
        SpecKVConfig(max_capacity_prompt=24, window_size=8, lookahead="none"),
        SpecKVConfig(max_capacity_prompt=90, window_size=16, lookahead="none", reduction_type="mean"),
    ]
    expected = [generate(pair, prompt, speckv=config, max_new_tokens=8).output_ids for config in configs]
    before = plain(model, prompt)
    found: dict[int, list[int]] = {}

    def work(i: int) -> None:
        found[i] = generate(pair, prompt, speckv=configs[i % 3], max_new_tokens=8).output_ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(9)] == [expected[i % 3] for i in range(9)]
    assert plain(model, prompt) == before


def test_captures_of_one_model_in_two_threads_see_only_their_own_calls() -> None:
    model = tiny_model("llama")
    inside = threading.Barrier(2)
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def work(name: str, tokens: int) -> None:
        with capture(model, lambda call: seen[name].append(call.query.shape[2])), torch.no_grad():
            inside.wait(10)
            model(random_ids(tokens)[None])
            inside.wait(10)

    threads = [threading.Thread(target=work, args=args) for args in (("a", 11), ("b", 22))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": [11] * 4, "b": [22] * 4}
    assert base_attention(model) == attention_configs(model)[0]._attn_implementation == "sdpa"


def test_a_thread_that_does_not_observe_runs_the_plain_model_while_another_observes() -> None:
    model, ids = tiny_model("llama"), random_ids(20)[None]
    with torch.no_grad():
        expected = model(ids).logits
    results: list[torch.Tensor] = []

    def work() -> None:
        with torch.no_grad():
            results.append(model(ids).logits)

    with capture(model, lambda call: Replaced(torch.zeros_like(call.query))):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    torch.testing.assert_close(results[0], expected)


def test_transformers_own_attention_functions_are_left_alone() -> None:
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with capture(tiny_model("llama"), lambda call: None):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
