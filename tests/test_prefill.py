"""The target's prefill: what it keeps for the look-ahead's sake, and the sparse attention, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense import TRAITS, call, probabilities
from spec_rag_kernels import BackendError
from tiny import random_ids, tiny_model
from torch import Tensor

from spec_rag import ModelPair, SpecKVConfig, generate, generate_batch
from spec_rag.attention.capture import Replaced
from spec_rag.errors import UnsupportedModelError
from spec_rag.generation.prefill import PrefillPruner, prefill
from spec_rag.generation.prompt_batch import PaddedPrompts
from spec_rag.generation.pruned_cache import PrunedCache

TOKENS, LOOKAHEAD = 60, 4
SPARSE = SpecKVConfig(
    max_capacity_prompt=16, window_size=6, kernel_size=3, prefill_window_size=9, prefill_vertical_size=7
)


def without_padding(prompts: Tensor) -> PaddedPrompts:
    """Prompts [batch, tokens] without padding."""
    positions = torch.arange(prompts.shape[1]).expand_as(prompts)
    return PaddedPrompts(prompts, torch.ones_like(prompts), positions, False)


def sparse_attention(config: SpecKVConfig, key_mask: Tensor | None = None, **traits: Any) -> tuple[Tensor, Tensor]:
    """What the pruner computes for one layer, and the same as a dense attention that sees columns and band alone."""
    seen = call(TOKENS, **traits)
    cache = PrunedCache(tiny_model("llama").config)
    cache.layers[0].update(seen.key, seen.value)
    replaced = PrefillPruner(cache, config, TOKENS - LOOKAHEAD, key_mask)(seen)
    assert isinstance(replaced, Replaced)

    follows = {name: traits.get(name) for name in ("softcap", "sliding_window", "sinks")}
    first = TOKENS - LOOKAHEAD - 1 - config.window_size
    rows = probabilities(seen.query, seen.key, seen.scaling, key_mask=key_mask, **follows)[:, :, first:, :first]
    if key_mask is not None:
        rows = rows * key_mask[:, None, first:, None]
    scores = rows.reshape(1, 2, -1, first).amax(2)
    pooled = torch.nn.functional.max_pool1d(scores, config.kernel_size, stride=1, padding=config.kernel_size // 2)
    hidden = torch.ones(1, 4, TOKENS, TOKENS, dtype=torch.bool)
    for head in range(4):
        order = pooled[0, head // 2].sort(descending=True, stable=True).indices  # of equal scores the first
        best = order[: config.prefill_vertical_size]
        hidden[0, head][:, best] = False
    hidden &= ~(torch.ones(TOKENS, TOKENS).tril() - torch.ones(TOKENS, TOKENS).tril(-config.prefill_window_size)).bool()
    weights = probabilities(seen.query, seen.key, seen.scaling, key_mask=key_mask, hidden=hidden, **follows)
    return replaced.output, weights @ seen.value.double().repeat_interleave(2, dim=1)


@pytest.mark.parametrize("trait", TRAITS)
def test_the_sparse_prefill_is_the_layers_attention_over_columns_and_band(trait: str) -> None:
    found, expected = sparse_attention(SPARSE, **TRAITS[trait])
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)


def test_the_sparse_prefill_does_not_see_padding() -> None:
    mask = torch.arange(TOKENS)[None] >= 14
    found, expected = sparse_attention(SPARSE, mask)
    torch.testing.assert_close(found[:, :, 14:].double(), expected[:, :, 14:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("capacity", [24, 60])
def test_a_row_of_a_sparse_batch_is_answered_as_alone(capacity: int) -> None:
    pair = ModelPair(target=tiny_model("llama", seed=2, layers=3))
    config = SpecKVConfig(
        max_capacity_prompt=capacity, window_size=8, lookahead="none", prefill_window_size=20, prefill_vertical_size=20
    )
    # alone, the shorter ones are read densely: those of at most 40 tokens, and those that fit the capacity
    prompts = [random_ids(n, seed=n) for n in (150, 90, 55, 38, 22, 7)]
    for row, prompt in zip(generate_batch(pair, prompts, speckv=config, max_new_tokens=10), prompts, strict=True):
        alone = generate(pair, prompt, speckv=config, max_new_tokens=10)
        assert row.output_ids == alone.output_ids
        assert row.kept_positions == alone.kept_positions or not alone.kept_positions


def test_the_prefill_forgets_the_look_ahead_and_leaves_the_last_prompt_token_out() -> None:
    target = tiny_model("llama", seed=2, layers=3)
    prompt, lookahead = random_ids(50)[None], random_ids(6, seed=1)[None]
    cache = prefill(target, without_padding(prompt), (lookahead, torch.ones(1, 6, dtype=torch.bool)), SPARSE)
    assert cache.get_seq_length() == 49
    for layer in cache.layers:
        assert layer.positions.shape == (1, 2, 16)
        assert int(layer.positions.max()) == 48
        assert layer.keys.shape == (1, 2, 16, 16)


def test_the_look_ahead_stands_where_the_answer_will_in_rows_with_padding_too() -> None:
    target = tiny_model("llama", seed=2, layers=3)
    given: dict[str, Tensor] = {}
    target.get_decoder().register_forward_pre_hook(lambda *seen: given.update(seen[-1]), with_kwargs=True)
    prompts, lookahead = random_ids(100).view(2, 50), random_ids(6, seed=1).view(2, 3)
    mask = torch.ones(2, 50, dtype=torch.long)
    mask[1, :9] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    written = torch.tensor([[True] * 3, [True, False, False]])
    prefill(target, PaddedPrompts(prompts, mask, positions, False), (lookahead, written), SPARSE)
    assert given["position_ids"][0].tolist() == list(range(53))
    assert given["position_ids"][1].tolist() == [0] * 9 + list(range(44))
    assert torch.equal(given["input_ids"], torch.cat([prompts, lookahead], dim=1))
    assert torch.equal(given["attention_mask"], torch.cat([mask, written.long()], dim=1))


def test_without_a_capacity_the_sparse_prefill_keeps_every_pair() -> None:
    target = tiny_model("llama", seed=2, layers=3)
    config = SpecKVConfig(max_capacity_prompt=None, window_size=6, prefill_window_size=9, prefill_vertical_size=7)
    prompt = random_ids(100).view(2, 50)
    nothing = torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=torch.bool)
    cache = prefill(target, without_padding(prompt), nothing, config)
    assert [layer.positions.tolist() for layer in cache.layers] == [[[list(range(49))] * 2] * 2] * 3


def test_the_tokens_behind_a_rows_end_do_not_choose_its_pairs() -> None:
    target = tiny_model("llama", seed=2, layers=3)
    prompt = random_ids(50)[None]
    lookahead = random_ids(6, seed=1)[None]

    def kept(ids: Tensor, mask: list[bool]) -> list[Tensor]:
        cache = prefill(target, without_padding(prompt), (ids, torch.tensor([mask])), SPARSE)
        return [layer.positions for layer in cache.layers]

    short = kept(lookahead[:, :3], [True] * 3)
    padded = kept(lookahead, [True] * 3 + [False] * 3)
    longer = kept(lookahead, [True] * 6)
    assert all(torch.equal(a, b) for a, b in zip(short, padded, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(short, longer, strict=True))


def test_layers_that_share_their_keys_are_refused() -> None:
    seen = call(TOKENS)
    cache = PrunedCache(tiny_model("llama").config)
    cache.layers[0].update(seen.key, seen.value)
    pruner = PrefillPruner(cache, SPARSE, TOKENS - LOOKAHEAD, None)
    pruner(seen)
    says = r"Layer 0 shares or repeats .* choose a target whose every layer has its own keys\.$"
    with pytest.raises(UnsupportedModelError, match=says):
        pruner(seen)


def test_heads_share_a_budget_only_where_the_attention_takes_a_mask_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_model("llama", seed=2, layers=3)
    prompt = random_ids(50)[None]
    config = SpecKVConfig(max_capacity_prompt=16, head_budget=None, lookahead="none", preset="scaled")
    nothing = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, dtype=torch.bool)

    def sizes() -> list[int]:
        cache = prefill(target, without_padding(prompt), nothing, config)
        return [int(n) for layer in cache.layers for n in (layer.positions >= 0).sum(-1).flatten()]

    shared = sizes()
    assert len(set(shared)) > 1
    assert sum(shared) == 16 * len(shared)
    monkeypatch.setattr("spec_rag.generation.prefill.base_attention", lambda model: "flash_attention_2")
    assert sizes() == [16] * 6


def test_keys_and_values_that_were_changed_on_the_way_to_the_attention_are_refused() -> None:
    seen = call(TOKENS)
    cache = PrunedCache(tiny_model("llama").config)
    cache.layers[0].update(seen.key[..., :8], seen.value)
    with pytest.raises(UnsupportedModelError, match=r"Layer 0 keeps keys \[1, 2, 60, 8\]"):
        PrefillPruner(cache, SPARSE, TOKENS - LOOKAHEAD, None)(seen)
    with pytest.raises(UnsupportedModelError, match="Layer 4 shares or repeats"):
        PrefillPruner(cache, SPARSE, TOKENS - LOOKAHEAD, None)(call(TOKENS, layer=4))


def test_a_model_whose_layers_do_not_all_show_themselves_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_model("llama", seed=2, layers=3)
    unseen = target.model.layers[1].self_attn
    monkeypatch.setattr(unseen, "forward", lambda hidden_states, **_: (hidden_states, None))
    prompt = random_ids(50)[None]
    nothing = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, dtype=torch.bool)
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM showed 2 of its 3 layers"):
        prefill(target, without_padding(prompt), nothing, SPARSE)


def test_the_scores_are_computed_by_the_backend_that_is_asked_for() -> None:
    target = tiny_model("llama", seed=2, layers=3)
    prompt = random_ids(20)[None]
    nothing = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, dtype=torch.bool)
    config = SpecKVConfig(max_capacity_prompt=8, window_size=4, lookahead="none")
    with pytest.raises(BackendError, match="window_scores: backend='abacus' is not a backend"):
        prefill(target, without_padding(prompt), nothing, config, backend="abacus")
