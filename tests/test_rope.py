"""Models whose rotary frequencies depend on the length: a row, a request and a cache keep one set of frequencies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from threads import until_waiting
from tiny import generate_together, random_ids, tiny_model, tiny_tokenizer
from transformers import PreTrainedModel

from spec_rag import ContextCache, ModelPair, SpecKVConfig, SpecPCConfig, compress, generate, generate_batch
from spec_rag.errors import UnsupportedModelError
from spec_rag.generation.answer_likelihood import answer_likelihood
from spec_rag.models.model_config import context_tokens
from spec_rag.models.rope import RopeSwitch, restore_frequencies

LIMIT = 64
SPECKV = SpecKVConfig(max_capacity_prompt=24, window_size=8, lookahead="none")
SPECPC = SpecPCConfig(max_capacity_prompt=48, window_size=8, starting_layer_index=0, positions="original")
PACKED = SpecPCConfig(max_capacity_prompt=48, window_size=8, starting_layer_index=0, positions="packed")


def phi3(seed: int = 0) -> PreTrainedModel:
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0 + i for i in range(8)]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": LIMIT, **factors}
    return tiny_model(
        "phi3", seed, max_position_embeddings=2048, original_max_position_embeddings=LIMIT, rope_parameters=rope,
        sliding_window=None,
    )  # fmt: skip


def dynamic_llama(seed: int = 0) -> PreTrainedModel:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 32.0}
    return tiny_model("llama", seed, max_position_embeddings=LIMIT, rope_parameters=rope)


MODELS = pytest.mark.parametrize("make", [phi3, dynamic_llama])
Make = Callable[..., PreTrainedModel]


def pair_of(make: Make) -> ModelPair:
    return ModelPair(draft=make(1), target=make(2), tokenizer=tiny_tokenizer())


def together(pair: ModelPair, prompts: list[torch.Tensor], **options: Any) -> list[list[int]]:
    found: dict[int, list[int]] = {}

    def ask(i: int) -> None:
        found[i] = generate_together(pair, prompts[i], **options).output_ids

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
    with pair.lock.hold():
        for i, thread in enumerate(threads):
            thread.start()
            until_waiting(pair.lock, i + 2)
    for thread in threads:
        thread.join()
    return [found[i] for i in range(len(prompts))]


@MODELS
@pytest.mark.parametrize("settings", [{}, {"speckv": SPECKV}, {"specpc": SPECPC}, {"specpc": PACKED}])
def test_an_answer_beside_longer_neighbours_equals_the_one_alone(make: Make, settings: dict[str, Any]) -> None:
    lengths = [30, 100, 60, 64, 65, 180]
    prompts = [random_ids(n, seed=n) for n in lengths]
    options = {"max_new_tokens": 6, "eos_token_id": -1, **settings}
    alone = [generate(pair_of(make), prompt, **options).output_ids for prompt in prompts]
    pair = pair_of(make)
    assert [answer.output_ids for answer in generate_batch(pair, prompts, **options)] == alone
    assert together(pair, prompts, **options) == alone


@MODELS
def test_a_long_request_leaves_the_model_as_it_was(make: Make) -> None:
    pair = pair_of(make)
    target = pair.require_target()
    rotary = [module for module in target.modules() if hasattr(module, "original_inv_freq")]
    frequencies = [module.inv_freq.clone() for module in rotary]
    before = [generate(pair, random_ids(n), max_new_tokens=8, eos_token_id=-1).output_ids for n in (40, 60, 100)]
    for settings in ({}, {"speckv": SPECKV}, {"specpc": SPECPC, "speckv": SPECKV}):
        generate(pair, random_ids(300, seed=1), max_new_tokens=8, **settings)
        assert all(torch.equal(a.inv_freq, b) for a, b in zip(rotary, frequencies, strict=True))
        again = [generate(pair, random_ids(n), max_new_tokens=8, eos_token_id=-1).output_ids for n in (40, 60, 100)]
        assert again == before
    answer_likelihood(pair, random_ids(300, seed=1), [5, 6, 7])
    assert all(torch.equal(a.inv_freq, b) for a, b in zip(rotary, frequencies, strict=True))


@MODELS
def test_what_another_library_left_behind_is_put_back(make: Make) -> None:
    pair = pair_of(make)
    expected = generate(pair, random_ids(100), max_new_tokens=6).output_ids
    with torch.no_grad():
        pair.require_target()(random_ids(400, seed=3)[None])
    assert generate(pair, random_ids(100), max_new_tokens=6).output_ids == expected


@MODELS
def test_an_answer_that_goes_across_the_switch_is_not_pruned_and_the_log_says_why(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pair = pair_of(make)
    options = {"max_new_tokens": 16, "eos_token_id": -1}
    expected = generate(pair, random_ids(60), **options).output_ids
    with caplog.at_level(logging.WARNING):
        answer = generate(pair, random_ids(60), speckv=SPECKV, **options)
    assert answer.output_ids == expected
    assert answer.kv_bytes_kept == answer.kv_bytes_dense > 0
    assert "prunes nothing" in caplog.text
    assert str(LIMIT) in caplog.text


def test_prompts_on_one_side_of_the_switch_are_pruned() -> None:
    pair = pair_of(phi3)
    for tokens in (40, 100, 200):
        answer = generate(pair, random_ids(tokens), speckv=SPECKV, max_new_tokens=8, eos_token_id=-1)
        assert 0 < answer.kv_bytes_kept < answer.kv_bytes_dense
    # a cache that keeps everything answers as no cache does
    everything = SpecKVConfig(max_capacity_prompt=None, window_size=8, lookahead="none", prefill_vertical_size=16,
                              prefill_window_size=1024)  # fmt: skip
    for tokens in (40, 100, 200):
        dense = generate(pair, random_ids(tokens), max_new_tokens=8).output_ids
        assert generate(pair, random_ids(tokens), speckv=everything, max_new_tokens=8).output_ids == dense


@pytest.mark.parametrize("make", [dynamic_llama, phi3])
def test_a_context_across_the_switch_is_refused_with_the_numbers(make: Make) -> None:
    pair = ModelPair(target=make())
    with pytest.raises(UnsupportedModelError, match=rf"beyond {LIMIT} tokens"):
        ContextCache.read(pair, random_ids(120))


def test_the_switch_of_a_model_is_known_from_its_config() -> None:
    assert RopeSwitch.of(phi3().config) == RopeSwitch("longrope", LIMIT)
    assert RopeSwitch.of(dynamic_llama().config) == RopeSwitch("dynamic", LIMIT)
    assert RopeSwitch.of(tiny_model("llama").config) is None
    assert RopeSwitch.of(tiny_model("gemma3_text", layers=2, sliding_window=8, query_pre_attn_scalar=16).config) is None
    restore_frequencies(tiny_model("llama"))
    switch = RopeSwitch("longrope", LIMIT)
    assert [switch.side(*tokens) for tokens in ((50, 64), (50, 65), (65, 70), (66, 70))] == [
        "below", "across", "across", "beyond",
    ]  # fmt: skip
    assert RopeSwitch("dynamic", LIMIT).side(200, 210) == "across"


def test_dynamic_scaling_stretches_the_context() -> None:
    assert context_tokens(dynamic_llama().config) == LIMIT * 32
    assert context_tokens(dynamic_llama().config.to_dict()) == LIMIT * 32
    assert context_tokens(phi3().config) == 2048


@MODELS
def test_a_joint_compression_leaves_the_frequencies_as_they_were(make: Make) -> None:
    pair = pair_of(make)
    short = "The gate opens at six."
    expected = compress([short] * 2, "When?", draft=pair, ratio=0.5, calibration=None)
    texts = [f"Hut {i} is red and stands above the lake." for i in range(6)]
    compress(texts, "Which hut is red?", draft=pair, ratio=0.5, scoring="joint", calibration=None)
    for module in pair.draft.modules():
        if hasattr(module, "original_inv_freq"):
            assert torch.equal(module.inv_freq, module.original_inv_freq)
    again = compress([short] * 2, "When?", draft=pair, ratio=0.5, calibration=None)
    assert again.documents == expected.documents
