"""Decoding from a pruned cache is dense attention that does not see what was dropped, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense import probabilities
from tiny import random_ids, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

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
