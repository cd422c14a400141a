"""Bytes of an unpruned KV cache: those that transformers' own cache holds after a prefill."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import FAMILIES, random_ids, target_only, tiny_model
from transformers import DynamicCache, MambaConfig

from spec_rag import SpecKVConfig, generate
from spec_rag.models.model_config import cache_option, kv_bytes

MLA = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 24,
    "head_dim": 8,
    "first_k_dense_replace": 9,
    "num_key_value_heads": 4,
}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {}) for kind in FAMILIES),
        ("mistral", {"sliding_window": 40}),
        ("qwen2", {"sliding_window": 40, "use_sliding_window": False}),
        ("deepseek_v3", MLA),
    ],
)
@pytest.mark.parametrize("tokens", [5, 120])
def test_the_bytes_are_those_of_the_cache(kind: str, settings: dict[str, Any], tokens: int) -> None:
    model = tiny_model(kind, **settings)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(random_ids(tokens)[None], past_key_values=cache)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_bytes(model, tokens) == held > 0


@pytest.mark.parametrize("speckv", [None, SpecKVConfig(max_capacity_prompt=500)])
def test_an_answer_of_nothing_pruned_says_what_its_prompt_holds(speckv: SpecKVConfig | None) -> None:
    answer = generate(target_only(), random_ids(100), speckv=speckv, max_new_tokens=3)
    assert answer.kv_bytes_dense == answer.kv_bytes_kept == 3 * 2 * 100 * 2 * 16 * 4


def test_a_model_without_attention_heads_has_no_known_bytes() -> None:
    model = SimpleNamespace(config=MambaConfig(num_hidden_layers=2), dtype=torch.float32)
    assert kv_bytes(model, 10) == 0


def test_a_cache_is_passed_by_the_name_that_the_model_has() -> None:
    def renamed(cache: object) -> None: ...

    def former(past_key_values: object) -> None: ...

    cache, model = object(), tiny_model()
    assert cache_option(renamed, cache) == {"cache": cache}
    assert cache_option(former, cache) == {"past_key_values": cache}
    for call in (model.forward, model.get_decoder().forward, model.prepare_inputs_for_generation):
        assert cache_option(call, cache).keys() <= inspect.signature(call).parameters.keys()
