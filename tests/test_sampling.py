"""One policy of what a caller's options mean, for every way of asking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import random_ids, tiny_model, tiny_pair

from spec_rag import SpecKVConfig, generate
from spec_rag.errors import ConfigError
from spec_rag.generation.sampling import (
    GREEDY,
    SamplingConfig,
    eos_token_ids,
    overriding,
    pad_token_id,
    seeded,
)


def samples(**options: Any) -> bool:
    return bool(SamplingConfig.of(8, options).options["do_sample"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"temperature": 1.0}, True),
        ({"temperature": 0}, False),
        ({"top_p": 0.9}, True),
        ({"top_k": 10}, True),
        ({"min_p": 0.1}, True),
        ({"typical_p": 0.5}, True),
        ({"top_p": 1.0}, False),
        ({"top_p": 1}, False),
        ({"top_k": 0}, False),
        ({"min_p": 0}, False),
        ({"min_p": 0.0, "top_k": 0, "top_p": 1, "typical_p": 1.0, "repetition_penalty": 1}, False),
        ({"epsilon_cutoff": 0, "eta_cutoff": 0.0, "top_h": 1}, False),
        ({"min_p": 0, "top_p": 0.9}, True),
        ({"temperature": 0.7, "top_k": 0}, True),
        ({"temperature": 0, "top_p": 0.95}, False),
        ({"temperature": 0.0, "top_k": 40, "min_p": 0.05, "typical_p": 0.9}, False),
        ({"do_sample": False, "top_k": 0, "top_p": 1.0, "min_p": 0.0}, False),
        ({"do_sample": True}, True),
        ({"do_sample": False}, False),
        ({"do_sample": False, "temperature": 1.0}, False),
        ({"repetition_penalty": 1.2}, False),
        ({"num_beams": 3}, False),
        ({"temperature": None, "top_p": None, "top_k": None}, False),
        ({"temperature": None, "top_k": 5}, True),
    ],
)
def test_an_option_that_only_sampling_knows_samples_and_nothing_else_does(
    options: dict[str, Any], expected: bool
) -> None:
    assert samples(**options) is expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": 0, "do_sample": True}, "temperature=0 is greedy, so do_sample=True"),
        ({"do_sample": False, "top_k": 5}, "do_sample=False is greedy, so top_k=5"),
        ({"do_sample": False, "temperature": 0.5}, "do_sample=False is greedy, so temperature=0.5"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_k": 2.5}, "top_k=2.5"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"temperature": True}, "temperature=True"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"stop_strings": ["x"]}, "use stop"),
        ({"max_length": 9}, "max_new_tokens counts"),
        ({"seed": True}, "seed=True"),
        ({"min_p": 2}, "min_p=2: must be a number at least 0 and at most 1"),
        ({"typical_p": 0}, "typical_p=0: must be a number above 0"),
        ({"repetition_penalty": "1"}, "repetition_penalty='1'"),
        ({"repetition_penalty": 0}, "repetition_penalty=0: must be a number above 0"),
        ({"use_cache": False}, "use_cache=False is not supported"),
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
        ({"eos_token_id": "</s>"}, "eos_token_id='</s>'"),
        ({"eos_token_id": [1, 2.5]}, "eos_token_id"),
    ],
)
def test_options_that_contradict_each_other_or_mean_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SamplingConfig.of(8, options)


def test_greedy_options_carry_no_remains_of_sampling() -> None:
    found = SamplingConfig.of(8, {"temperature": 0, "repetition_penalty": 1.2}).options
    assert found == {**GREEDY, "repetition_penalty": 1.2}


def test_one_stop_string_is_a_list_of_one() -> None:
    assert SamplingConfig.of(8, {"stop": "END"}).stop == ("END",)
    assert SamplingConfig.of(8, {"stop": ["a", "b"], "seed": 3}).stop == ("a", "b")
    assert SamplingConfig.of(8, {"stop": None}).stop == ()


def test_a_calls_temperature_of_zero_switches_the_settings_of_sampling_off() -> None:
    assert overriding({"temperature": 0}) == {"top_p": None, "top_k": None, "temperature": 0}
    assert overriding({"temperature": 0, "top_k": 5})["top_k"] == 5, "what the call itself says stands"
    assert overriding({"temperature": 0.5}) == {"temperature": 0.5}
    assert overriding({"seed": 1}) == {"seed": 1}


@pytest.mark.parametrize("options", [{"top_k": 40}, {"top_p": 0.99}, {"temperature": 1.0}])
def test_each_of_them_alone_really_samples(options: dict[str, Any]) -> None:
    pair, prompt = tiny_pair(), random_ids(30)
    greedy = generate(pair, prompt, max_new_tokens=12).output_ids
    first, again, other = (
        generate(pair, prompt, max_new_tokens=12, seed=seed, **options).output_ids for seed in (1, 1, 2)
    )
    assert first == again
    assert len({tuple(greedy), tuple(first), tuple(other)}) == 3


def test_a_checkpoints_own_generation_config_does_not_join_in() -> None:
    pair, prompt = tiny_pair(), random_ids(30)
    greedy = generate(pair, prompt, max_new_tokens=12).output_ids
    pair.target.generation_config.do_sample = True
    pair.target.generation_config.temperature = 5.0
    pair.target.generation_config.repetition_penalty = 9.0
    assert generate(pair, prompt, max_new_tokens=12).output_ids == greedy


def test_a_seed_leaves_the_generators_as_they_were() -> None:
    model = tiny_model()
    before = torch.random.get_rng_state()
    with seeded(4, model):
        first = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with seeded(4, model):
        assert torch.equal(torch.rand(3), first)
    with seeded(None, model):
        torch.rand(1)
    assert not torch.equal(torch.random.get_rng_state(), before)


def test_end_and_padding_tokens_are_read_from_the_model() -> None:
    model = tiny_model()
    assert (eos_token_ids(model), pad_token_id(model)) == ([1], 2)
    model.generation_config.eos_token_id = [5, 7]
    model.generation_config.pad_token_id = None
    assert (eos_token_ids(model), pad_token_id(model)) == ([5, 7], 5)
    model.generation_config.eos_token_id = None
    assert (eos_token_ids(model), pad_token_id(model)) == ([], 0)


@pytest.mark.parametrize("options", [{"temperature": 2}, {"repetition_penalty": 2}, {"temperature": 1, "top_p": 1}])
def test_whole_numbers_serve_where_transformers_takes_fractions_alone(options: dict[str, Any]) -> None:
    assert generate(tiny_pair(), random_ids(30), max_new_tokens=3, seed=1, **options).output_ids


@pytest.mark.parametrize(
    "settings",
    [
        {"cache_implementation": "static"},
        {"cache_implementation": "quantized", "cache_config": {"backend": "quanto"}},
        {"cache_implementation": "offloaded"},
        {"use_cache": False},
        {"stop_strings": ["a"]},
        {"prompt_lookup_num_tokens": 3},
        {"guidance_scale": 2.0},
        {"max_time": 0.0},
    ],
)
@pytest.mark.parametrize("pruned", [False, True])
def test_what_a_checkpoint_says_of_caches_and_modes_changes_no_answer(settings: dict[str, Any], pruned: bool) -> None:
    pair, prompt = tiny_pair(), random_ids(80)
    speckv = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=4) if pruned else None
    expected = generate(pair, prompt, speckv=speckv, max_new_tokens=8).output_ids
    for model in (pair.draft, pair.target):
        for name, value in settings.items():
            setattr(model.generation_config, name, value)
    assert generate(pair, prompt, speckv=speckv, max_new_tokens=8).output_ids == expected
