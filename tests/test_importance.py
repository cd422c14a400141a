"""From attention calls to importance: what the scores follow of a model's attention, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense import TRAITS, call, probabilities
from tiny import random_ids, tiny_model
from torch import Tensor

from spec_rag import ModelPair, SpecKVConfig, SpecPCConfig, generate, score_prompt
from spec_rag.attention.capture import AttentionCall
from spec_rag.attention.importance import PromptImportance, kv_scores
from spec_rag.errors import ConfigError, UnsupportedModelError
from spec_rag.generation.draft_pass import read_rows
from spec_rag.generation.request import GenerationRequest

TOKENS, WINDOW = 40, 9


def dense(seen: AttentionCall, queries: slice, key_mask: Tensor | None = None) -> Tensor:
    """float64 [batch, heads, queries, keys]"""
    rows = probabilities(
        seen.query,
        seen.key,
        seen.scaling,
        softcap=seen.softcap,
        sliding_window=seen.sliding_window,
        sinks=seen.sinks,
        key_mask=key_mask,
    )
    return rows[:, :, queries]


def speckv(**settings: Any) -> SpecKVConfig:
    return SpecKVConfig(max_capacity_prompt=20, window_size=WINDOW, **settings)


@pytest.mark.parametrize("reduction", ["max", "mean"])
@pytest.mark.parametrize("trait", TRAITS)
def test_speckv_scores_by_the_attention_that_the_layer_computes(trait: str, reduction: str) -> None:
    seen, prompt = call(TOKENS, **TRAITS[trait]), TOKENS - 5  # five tokens of look-ahead
    rows = dense(seen, slice(prompt - 1 - WINDOW, None))[..., : prompt - 1 - WINDOW]
    grouped = rows.reshape(1, 2, 2, rows.shape[2], -1)
    expected = grouped.amax((2, 3)) if reduction == "max" else grouped.sum((2, 3))
    found = kv_scores(seen, speckv(reduction_type=reduction), prompt, None)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["max", "mean"])
@pytest.mark.parametrize("trait", TRAITS)
def test_specpc_scores_by_the_attention_that_the_layer_computes(trait: str, reduction: str) -> None:
    config = SpecPCConfig(window_size=WINDOW, starting_layer_index=1, reduction_type=reduction)
    observer = PromptImportance(config)
    layers = [call(TOKENS, layer, **TRAITS[trait]) for layer in range(3)]
    for seen in layers:
        observer(seen)
    ramp = torch.linspace(0, 1, WINDOW, dtype=torch.float64)[:, None]
    rows = torch.stack([dense(seen, slice(-WINDOW, None))[0] * ramp for seen in layers[1:]])
    expected = rows.amax((0, 1, 2)) if reduction == "max" else rows.sum((0, 1, 2))
    torch.testing.assert_close(observer.result()[0].double(), expected, atol=1e-6, rtol=1e-5)


def test_a_padded_key_is_no_key_of_the_prompt_and_gets_no_importance() -> None:
    mask = torch.arange(TOKENS)[None] >= 7
    seen = call(TOKENS)
    observer = PromptImportance(SpecPCConfig(window_size=WINDOW, starting_layer_index=0), mask)
    observer(seen)
    ramp = torch.linspace(0, 1, WINDOW, dtype=torch.float64)[:, None]
    expected = (dense(seen, slice(-WINDOW, None), mask)[0] * ramp).amax((0, 1))
    torch.testing.assert_close(observer.result()[0].double(), expected, atol=1e-6, rtol=1e-5)
    assert observer.result()[0, :7].tolist() == [0.0] * 7


def test_padding_neither_asks_nor_is_looked_at_in_speckv() -> None:
    """Left of the prompt, inside the window too, and behind the end of a shorter look-ahead."""
    seen, prompt = call(TOKENS), TOKENS - 5
    mask = torch.ones(1, TOKENS, dtype=torch.bool)
    mask[0, :28] = False  # the window begins at 25
    mask[0, -3:] = False
    rows = dense(seen, slice(prompt - 1 - WINDOW, None), mask)
    rows = rows * mask[0, prompt - 1 - WINDOW :, None]
    expected = rows[..., : prompt - 1 - WINDOW].reshape(1, 2, 2, rows.shape[2], -1).amax((2, 3))
    found = kv_scores(seen, speckv(), prompt, mask)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    mask[0, :28] = True
    mask[0, :6] = False
    rows = dense(seen, slice(prompt - 1 - WINDOW, None), mask) * mask[0, prompt - 1 - WINDOW :, None]
    expected = rows[..., : prompt - 1 - WINDOW].reshape(1, 2, 2, rows.shape[2], -1).amax((2, 3))
    torch.testing.assert_close(kv_scores(seen, speckv(), prompt, mask).double(), expected, atol=1e-6, rtol=1e-5)


def test_only_the_first_look_ahead_steps_that_are_asked_for_count() -> None:
    config = SpecPCConfig(window_size=WINDOW, starting_layer_index=0, lookahead_tokens=2)
    steps = [call(TOKENS), call(TOKENS + 1, queries=1), call(TOKENS + 2, queries=1)]
    observer = PromptImportance(config)
    for seen in steps[:2]:
        observer(seen)
    after_two = observer.result().clone()
    ramp = torch.linspace(0, 1, WINDOW, dtype=torch.float64)[:, None]
    first = (dense(steps[0], slice(-WINDOW, None))[0] * ramp).amax((0, 1))
    second = dense(steps[1], slice(None))[0].amax((0, 1))[:TOKENS]  # a step's row is not weighted
    torch.testing.assert_close(after_two[0].double(), torch.maximum(first, second), atol=1e-6, rtol=1e-5)
    observer(steps[2])
    assert torch.equal(observer.result(), after_two)


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_a_padded_row_of_a_batch_is_as_important_as_alone(reduction: str) -> None:
    pair = ModelPair(draft=tiny_model(seed=1, initializer_range=0.1).double())
    specpc = SpecPCConfig(window_size=8, starting_layer_index=0, reduction_type=reduction)
    rows = [random_ids(90, seed=1), random_ids(60, seed=2)]
    request = GenerationRequest(pair, specpc=specpc)
    together, alone = (read_rows(request, given, 3).importance for given in (rows, rows[1:]))
    assert together is not None
    assert alone is not None
    torch.testing.assert_close(together[1, 30:], alone[0], atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_what_a_row_of_a_batch_is_fed_behind_its_end_token_does_not_count(reduction: str) -> None:
    pair = ModelPair(draft=tiny_model(seed=1, initializer_range=0.1).double())
    specpc = SpecPCConfig(window_size=8, starting_layer_index=0, reduction_type=reduction)
    rows = [random_ids(60, seed=1), random_ids(60, seed=2)]
    pair.draft.generation_config.eos_token_id = None
    first, second = read_rows(GenerationRequest(pair, specpc=specpc), rows, 5).lookahead_ids.tolist()
    end = next(token for token in first if token not in second)
    pair.draft.generation_config.eos_token_id = end
    several = SpecPCConfig(window_size=8, starting_layer_index=0, reduction_type=reduction, lookahead_tokens=5)
    together = read_rows(GenerationRequest(pair, specpc=several), rows, 5).importance
    assert together is not None
    for row, own in zip(rows, together, strict=True):
        alone = read_rows(GenerationRequest(pair, specpc=several), [row], 5).importance
        assert alone is not None
        torch.testing.assert_close(own, alone[0], atol=1e-9, rtol=1e-6)


def test_an_end_token_inside_the_prompt_does_not_silence_the_look_ahead() -> None:
    pair, row = ModelPair(draft=tiny_model(seed=1, initializer_range=0.1).double()), random_ids(60, seed=1)
    specpc = SpecPCConfig(window_size=8, starting_layer_index=0, reduction_type="mean", lookahead_tokens=4)
    pair.draft.generation_config.eos_token_id = None
    expected = read_rows(GenerationRequest(pair, specpc=specpc), [row], 4)
    written = expected.lookahead_ids[0].tolist()
    # in a chat the turns before the question end with the token that will end the answer
    pair.draft.generation_config.eos_token_id = next(token for token in row.tolist() if token not in written)
    found = read_rows(GenerationRequest(pair, specpc=specpc), [row], 4)
    assert found.lookahead_ids[0].tolist() == written
    torch.testing.assert_close(found.importance, expected.importance)


@pytest.mark.parametrize("family", ["bloom", "gpt_neox"])
def test_a_draft_whose_attention_cannot_be_seen_is_not_blamed_on_the_settings(family: str) -> None:
    sizes = {"n_layer": 2, "n_head": 4} if family == "bloom" else {}
    pair = ModelPair(draft=tiny_model(family, layers=2, **sizes))
    config = SpecPCConfig(window_size=8, starting_layer_index=5)
    if family == "bloom":
        with pytest.raises(UnsupportedModelError, match="without showing any layer"):
            score_prompt(pair, random_ids(40), config)
    else:  # where layers are seen, and all below the first that counts, the setting is what is wrong
        with pytest.raises(ConfigError, match="starting_layer_index=5: the draft's last layer is 1"):
            score_prompt(pair, random_ids(40), config)


def test_a_target_whose_attention_cannot_be_seen_is_refused() -> None:
    pair = ModelPair(target=tiny_model("bloom", layers=2, n_layer=2, n_head=4))
    config = SpecKVConfig(max_capacity_prompt=20, window_size=8, lookahead="none")
    with pytest.raises(UnsupportedModelError, match="showed 0 of its 2 layers"):
        generate(pair, random_ids(60), speckv=config, max_new_tokens=2)
