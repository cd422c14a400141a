"""Decoding from a pruned cache is dense attention that does not see what was dropped, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dense import probabilities
from tiny import random_ids, tiny_model
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer

from spec_rag import ModelPair, SpecKVConfig, generate_batch
from spec_rag.attention.capture import AttentionCall, Replaced, capture
from spec_rag.errors import UnsupportedModelError
from spec_rag.generation.pruned_cache import DecodeMasks, PrunedCache, PrunedLayer
from spec_rag.results import Answer

SLIDING = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma3_text": {**SLIDING, "query_pre_attn_scalar": 16},
    "gpt_oss": {**SLIDING, "num_local_experts": 2, "num_experts_per_tok": 1, "attn_implementation": "eager"},
}


def target_of(family: str) -> PreTrainedModel:
    model = tiny_model(family, seed=3, layers=3, **FAMILIES[family])
    model = model if family == "gpt_oss" else model.double()  # its experts run in float32 alone
    model.generation_config.eos_token_id = None
    return model


def answered_with_logits(
    target: PreTrainedModel, prompts: list[Tensor], **settings: Any
) -> tuple[list[Answer], list[Tensor]]:
    """The answers, and per row the float64 [steps, vocabulary] from which each token was chosen."""
    seen: list[Tensor] = []
    hook = target.get_output_embeddings().register_forward_hook(lambda *given: seen.append(given[-1][:, -1]))
    try:
        answers = generate_batch(ModelPair(target=target), prompts, max_new_tokens=12, **settings)
    finally:
        hook.remove()
    return answers, list(torch.stack(seen[-12:], dim=1))


class Hiding:
    """Dense attention in which the queries from the last prompt token on see what was kept of the prompt alone."""

    def __init__(self, kept: list[list[list[int]]], prompt_tokens: int) -> None:
        self.kept = kept
        self.first = prompt_tokens - 1

    def __call__(self, call: AttentionCall) -> Replaced:
        tokens, heads = call.query.shape[2], call.query.shape[1]
        hidden = torch.zeros(1, heads, tokens, tokens, dtype=torch.bool)
        for head in range(heads):
            own = self.kept[call.layer][head // (heads // call.key.shape[1])]
            dropped = sorted(set(range(self.first)) - set(own))
            hidden[0, head, self.first :, dropped] = True
        rows = probabilities(
            call.query,
            call.key,
            call.scaling,
            sliding_window=call.sliding_window,
            sinks=call.sinks,
            hidden=hidden,
        )
        values = call.value.repeat_interleave(heads // call.value.shape[1], dim=1)
        return Replaced((rows @ values.double()).to(call.query))


def dense_logits(target: PreTrainedModel, prompt: Tensor, answer: Answer) -> Tensor:
    """float64 [steps, vocabulary] of the answer's own tokens, with the dropped pairs hidden."""
    ids = torch.cat([prompt, torch.tensor(answer.output_ids[:-1])])[None]
    with capture(target, Hiding(answer.kept_positions, len(prompt))), torch.no_grad():
        return target(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :]


def assert_alike(found: Tensor, expected: Tensor) -> None:
    tolerance = 1e-8 if found.dtype == torch.float64 else 1e-3
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("capacity", [20, 30])  # below and above the sliding window
@pytest.mark.parametrize("head_budget", ["uniform", "adaptive"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_decoding_is_dense_decoding_that_does_not_see_what_was_dropped(
    family: str, head_budget: str, capacity: int
) -> None:
    target, prompt = target_of(family), random_ids(70)
    config = SpecKVConfig(max_capacity_prompt=capacity, window_size=8, lookahead="none", head_budget=head_budget)
    answers, logits = answered_with_logits(target, [prompt], speckv=config)
    assert sum(len(head) for layer in answers[0].kept_positions for head in layer) < 0.6 * 3 * 2 * 69
    assert_alike(logits[0], dense_logits(target, prompt, answers[0]))


@pytest.mark.parametrize("capacity", [20, 30])
@pytest.mark.parametrize("head_budget", ["uniform", "adaptive"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_row_decodes_without_seeing_its_padding(family: str, head_budget: str, capacity: int) -> None:
    target, prompts = target_of(family), [random_ids(70, seed=1), random_ids(45, seed=2), random_ids(20, seed=3)]
    config = SpecKVConfig(max_capacity_prompt=capacity, window_size=8, lookahead="none", head_budget=head_budget)
    answers, logits = answered_with_logits(target, prompts, speckv=config)
    for prompt, answer, own in zip(prompts, answers, logits, strict=True):
        assert_alike(own, dense_logits(target, prompt, answer))


def layer_with(positions: list[list[int]], sliding_window: int | None = None, prompt_tokens: int = 12) -> PrunedLayer:
    """A layer of two rows and one KV head whose keys say their position."""
    layer = PrunedLayer(sliding_window)
    keys = torch.arange(prompt_tokens, dtype=torch.float32).view(1, 1, -1, 1).expand(2, 1, -1, 1)
    layer.update(keys, keys.clone())
    layer.keep(torch.tensor(positions)[:, None], prompt_tokens, torch.tensor([0, 3]))
    return layer


def test_a_query_sees_as_many_positions_as_its_window_is_wide_and_no_padding() -> None:
    layer = layer_with([[0, 2, 7, 8, 9], [1, 2, 3, 8, 11]], sliding_window=6)
    seen = layer.visible(13)[:, 0].tolist()
    assert seen == [[False, False, False, True, True], [False, False, False, True, True]]
    assert layer.visible(12)[:, 0].tolist() == [[False, False, True, True, True], [False, False, False, True, True]]
    assert layer_with([[0, 2, 7, 8, 9], [1, 2, 3, 8, 11]]).visible(13)[1, 0].tolist() == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_whole_sliding_layer_holds_no_more_than_its_window_lets_see() -> None:
    layer = layer_with([list(range(12))] * 2, sliding_window=6)
    # the next query sees itself and five before it
    assert layer.positions[0, 0].tolist() == [7, 8, 9, 10, 11]
    new = torch.full((2, 1, 1, 1), 12.0)
    keys, _ = layer.update(new, new)
    assert keys[0, 0, :, 0].tolist() == [7, 8, 9, 10, 11, 12]
    assert layer.positions[0, 0].tolist() == [8, 9, 10, 11, 12]
    assert layer.get_seq_length() == 13
    assert layer.get_mask_sizes(1) == (6, 8)


def test_beams_take_their_positions_along_when_they_are_reordered_repeated_or_selected() -> None:
    layer = layer_with([[0, 2, 7], [5, 6, 11]])
    layer.reorder_cache(torch.tensor([1, 0]))
    assert layer.positions[:, 0].tolist() == [[5, 6, 11], [0, 2, 7]] == layer.keys[:, 0, :, 0].tolist()
    assert layer.padding.tolist() == [[0, 3], [0, 0]]
    layer.batch_repeat_interleave(2)
    assert layer.positions[:, 0].tolist() == [[5, 6, 11]] * 2 + [[0, 2, 7]] * 2 == layer.keys[:, 0, :, 0].tolist()
    assert layer.padding.tolist() == [[0, 3], [0, 3], [0, 0], [0, 0]]
    layer.batch_select_indices(torch.tensor([0, 3]))
    assert layer.positions[:, 0].tolist() == [[5, 6, 11], [0, 2, 7]] == layer.keys[:, 0, :, 0].tolist()
    assert layer.padding.tolist() == [[0, 3], [0, 0]]


def test_beams_of_a_prompt_that_is_not_cut_yet_are_its_keys_alone() -> None:
    layer = PrunedLayer()
    keys = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 4, 1)
    layer.update(keys, keys.clone())
    layer.reorder_cache(torch.tensor([1, 0]))
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([0, 2, 3]))
    assert layer.keys[:, 0, 0, 0].tolist() == layer.values[:, 0, 0, 0].tolist() == [1, 0, 0]
    assert (layer.positions, layer.get_seq_length()) == (None, 4)


def test_an_empty_slot_is_never_seen() -> None:
    layer = layer_with([[-1, -1, 7], [-1, 6, 11]])
    assert layer.needs_mask
    assert layer.visible(12)[:, 0].tolist() == [[False, False, True], [False, True, True]]


def test_the_logical_length_counts_what_was_dropped() -> None:
    layer = layer_with([[0, 2, 7], [5, 6, 11]])
    assert layer.get_seq_length() == 12
    assert layer.get_mask_sizes(1) == (4, 9)
    layer.reset()
    assert (layer.get_seq_length(), layer.positions) == (0, None)


def test_an_attention_without_masks_per_head_is_refused_where_they_are_needed() -> None:
    model = tiny_model("llama")
    with pytest.raises(UnsupportedModelError, match="attn_implementation='flash_attention_2'"):
        DecodeMasks(PrunedCache(model.config), "flash_attention_2", model)


def taken(positions: list[int], prompt_tokens: int = 9, sliding_window: int | None = None) -> PrunedLayer:
    """A layer of one row and two KV heads that holds pairs that were chosen before."""
    layer = PrunedLayer(sliding_window)
    keys = torch.tensor(positions, dtype=torch.float32).view(1, 1, -1, 1).expand(1, 2, -1, 4)
    layer.load(keys, keys.clone(), torch.tensor([[positions] * 2]), prompt_tokens, torch.tensor([[3, 5]]))
    return layer


def test_pairs_that_were_chosen_before_count_as_what_the_prompt_would_have_taken() -> None:
    layer = taken([0, 2, 7])
    assert (layer.get_seq_length(), layer.get_mask_sizes(2), layer.get_max_length()) == (9, (5, 6), -1)
    assert layer.kept_bytes == 2 * (2 * 3 * 4 * 4)
    assert layer.dense_bytes == 2 * (2 * 9 * 4 * 4)
    assert (layer.needs_mask, layer.is_sliding) == (False, False)
    new = torch.full((1, 2, 2, 4), 9.0)
    keys, values = layer.update(new, new + 1)
    assert keys[0, 1, :, 0].tolist() == [0, 2, 7, 9, 9]
    assert values[0, 1, :, 0].tolist() == [0, 2, 7, 10, 10]
    assert layer.positions[0].tolist() == [[0, 2, 7, 9, 10]] * 2
    assert layer.get_seq_length() == 11


@pytest.mark.parametrize(
    ("positions", "prompt_tokens", "sliding_window", "needs_mask"),
    [
        ([4, 5, 6, 7, 8], 9, 6, False),  # all that the window of the next query holds
        ([5, 6, 7, 8], 9, 6, True),
        ([0, 1, 2], 3, 6, False),  # all there is
        ([1, 2], 3, 6, True),
        ([-1, 0, 7], 9, None, True),
        ([0, 7], 9, None, False),
    ],
)
def test_a_mask_is_needed_where_slots_are_empty_or_pairs_will_leave_a_window(
    positions: list[int], prompt_tokens: int, sliding_window: int | None, needs_mask: bool
) -> None:
    layer = taken(positions, prompt_tokens, sliding_window)
    assert layer.needs_mask is needs_mask
    assert layer.get_max_length() == (sliding_window or -1)


def test_padding_between_a_context_and_its_question_is_not_seen() -> None:
    assert taken([2, 3, 4, 5]).visible(9)[0].tolist() == [[True, False, False, True]] * 2


@pytest.mark.parametrize(
    ("kept", "needs_mask", "held"),
    [
        (list(range(12)), False, [7, 8, 9, 10, 11]),
        ([0, 1, 2, 3, 10, 11], True, [1, 2, 3, 10, 11]),
        ([6, 7, 8, 9, 10, 11], False, [7, 8, 9, 10, 11]),
        ([7, 8, 9, 10, 11], True, [7, 8, 9, 10, 11]),
        ([0, 11], True, [0, 11]),
    ],
)
def test_a_sliding_layer_holds_at_most_what_its_window_lets_see(
    kept: list[int], needs_mask: bool, held: list[int]
) -> None:
    layer = layer_with([kept] * 2, sliding_window=6)
    assert layer.positions[:, 0].tolist() == [held] * 2 == layer.keys[:, 0, :, 0].tolist()
    assert layer.needs_mask is needs_mask
    assert layer.dense_bytes == 2 * (2 * 12 * 4)
    assert layer.kept_bytes == 2 * (2 * len(held) * 4)
    assert layer.padding.tolist() == [[0, 0], [0, 3]]


def test_without_padding_a_prompt_begins_at_its_first_token() -> None:
    layer = PrunedLayer()
    keys = torch.zeros(2, 1, 5, 1)
    assert layer.get_mask_sizes(4) == (4, 0)
    layer.update(keys, keys)
    layer.keep(torch.tensor([[[0, 4]]] * 2), 5)
    torch.testing.assert_close(layer.padding, torch.zeros(2, 2, dtype=torch.long))
    assert layer.visible(5).tolist() == [[[True, True]]] * 2


def test_guesses_that_were_wrong_are_taken_away_again() -> None:
    layer = layer_with([[0, 2, 7], [5, 6, 11]])
    new = torch.full((2, 1, 3, 1), 12.0)
    layer.update(new, new)
    assert layer.get_seq_length() == 15
    layer.crop(0)
    assert layer.positions.shape[-1] == 6
    layer.crop(-2)
    assert layer.get_seq_length() == 13
    assert layer.positions[:, 0].tolist() == [[0, 2, 7, 12], [5, 6, 11, 12]]
    assert layer.keys[:, 0, :, 0].tolist() == [[0, 2, 7, 12], [5, 6, 11, 12]]
    assert layer.visible(13).shape == (2, 1, 4)


def test_a_layer_that_was_reset_needs_no_mask() -> None:
    layer = layer_with([[-1, -1, 7], [-1, 6, 11]])
    layer.reset()
    assert (layer.needs_mask, layer.get_mask_sizes(3)) == (False, (3, 0))


def test_a_cache_has_a_layer_for_each_of_the_models_and_sums_them_up() -> None:
    model = tiny_model("gemma3_text", layers=3, **FAMILIES["gemma3_text"])
    cache = PrunedCache(model.config)
    assert [layer.sliding_window for layer in cache.layers] == [24, None, 24]
    assert not cache.can_roll_back
    assert len(PrunedCache(tiny_model("llama", layers=3).config).layers) == 3
    assert PrunedCache(tiny_model("llama", layers=3).config).can_roll_back
    for layer, kept in zip(cache.layers, ([[0, 1]], [[0, 1, 2]], [[1, 2]]), strict=True):
        keys = torch.zeros(1, 1, 6, 1)
        layer.update(keys, keys)
        layer.keep(torch.tensor([kept]), 6)
    assert cache.kept_bytes == (2 + 3 + 2) * 8
    assert cache.dense_bytes == 3 * 6 * 8
    assert cache.needs_masks
    cache.layers[0].needs_mask = cache.layers[2].needs_mask = False
    assert not cache.needs_masks


def test_layers_that_hold_something_else_than_pairs_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'lfm2' has layers of type conv"):
        PrunedCache(tiny_model("lfm2", layers=2, layer_types=["conv", "full_attention"]).config)


def test_layers_of_a_kind_that_nobody_knows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quantized(DynamicLayer):
        pass

    monkeypatch.setattr(
        "spec_rag.generation.pruned_cache.DynamicCache", lambda config: SimpleNamespace(layers=[Quantized()])
    )
    with pytest.raises(UnsupportedModelError, match="Layers of 'llama' keep a Quantized, which cannot be pruned"):
        PrunedCache(tiny_model("llama").config)


def test_the_queries_of_one_step_see_what_was_kept_and_each_other_backwards() -> None:
    model = tiny_model("llama", layers=1)
    cache = PrunedCache(model.config)
    layer = cache.layers[0]
    keys = torch.zeros(1, 2, 8, 16)
    layer.update(keys, keys)
    masks = DecodeMasks(cache, "sdpa", model)

    def asked(queries: int) -> Tensor | None:
        keys, _ = layer.update(torch.zeros(1, 2, queries, 16), torch.zeros(1, 2, queries, 16))
        return masks(AttentionCall(0, torch.zeros(1, 4, queries, 16), keys, keys, None, 1.0, None, None, None))

    layer.keep(torch.tensor([[[0, 3, 5], [2, 3, 5]]]), 8)
    assert asked(2) is None, "where all heads hold as many, the model's own mask will do"
    layer.crop(-2)
    layer.keep(torch.tensor([[[-1, 0, 2], [0, 1, 2]]]), 8)
    bias = asked(2)
    assert bias is not None
    assert bias.shape == (1, 4, 2, 5)
    seen = (bias == 0)[0]
    assert seen[0].tolist() == seen[1].tolist() == [[False, True, True, True, False], [False, True, True, True, True]]
    assert seen[2].tolist() == seen[3].tolist() == [[True, True, True, True, False], [True] * 5]
    assert float(bias.min()) == torch.finfo(torch.float32).min
