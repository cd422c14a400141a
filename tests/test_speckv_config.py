"""What SpecKV's settings mean: the presets, and what is given by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import random_ids, tiny_pair

from spec_rag import SpecKVConfig, generate
from spec_rag.attention.token_selection import select_kv
from spec_rag.errors import ConfigError


@pytest.mark.parametrize(
    ("capacity", "window", "without_lookahead"), [(2, 1, 1), (5, 4, 4), (64, 4, 16), (96, 6, 16), (1024, 8, 16)]
)
def test_a_small_capacity_spends_little_on_the_window(capacity: int, window: int, without_lookahead: int) -> None:
    config = SpecKVConfig(max_capacity_prompt=capacity)
    assert (config.window, config.kernel, config.adaptive) == (window, 5, True)
    alone = SpecKVConfig(max_capacity_prompt=capacity, lookahead="none")
    assert (alone.window, alone.kernel, alone.adaptive) == (without_lookahead, 11, True)


def test_the_window_follows_the_capacity_that_is_set_later() -> None:
    assert replace(SpecKVConfig(), max_capacity_prompt=64) == SpecKVConfig(max_capacity_prompt=64)


def test_the_paper_s_settings_have_a_name_and_settings_given_by_hand_are_the_paper_s() -> None:
    paper = SpecKVConfig(preset="paper")
    assert (paper.window, paper.kernel, paper.adaptive) == (32, 7, False)
    by_hand = SpecKVConfig(max_capacity_prompt=64, window_size=16)
    assert (by_hand.window, by_hand.kernel, by_hand.adaptive) == (16, 7, False)
    assert not SpecKVConfig(kernel_size=5).adaptive
    scaled = SpecKVConfig(max_capacity_prompt=64, window_size=16, preset="scaled")
    assert (scaled.window, scaled.kernel, scaled.adaptive) == (16, 5, True)
    assert not SpecKVConfig(head_budget="uniform").adaptive
    assert SpecKVConfig(preset="paper", head_budget="adaptive").adaptive


def test_the_paper_s_answer_is_that_of_its_values_by_hand() -> None:
    pair, prompt = tiny_pair(), random_ids(150)
    named = generate(pair, prompt, speckv=SpecKVConfig(max_capacity_prompt=48, preset="paper"), max_new_tokens=8)
    by_hand = SpecKVConfig(max_capacity_prompt=48, window_size=32, kernel_size=7, head_budget="uniform")
    given = generate(pair, prompt, speckv=by_hand, max_new_tokens=8)
    assert named.kept_positions == given.kept_positions
    assert named.output_ids == given.output_ids
    scaled = generate(pair, prompt, speckv=SpecKVConfig(max_capacity_prompt=48), max_new_tokens=8)
    assert scaled.kept_positions != named.kept_positions


def test_heads_share_where_the_attention_takes_a_mask_per_head_and_not_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair, prompt, config = tiny_pair(), random_ids(150), SpecKVConfig(max_capacity_prompt=40)
    shared = generate(pair, prompt, speckv=config, max_new_tokens=4)
    assert len({len(head) for layer in shared.kept_positions for head in layer}) > 1
    monkeypatch.setattr("spec_rag.generation.prefill.MASK_PER_HEAD", ("eager",))
    even = generate(pair, prompt, speckv=config, max_new_tokens=4)
    assert {len(head) for layer in even.kept_positions for head in layer} == {40}


def test_no_adaptive_head_is_wider_than_two_shares() -> None:
    scores = torch.zeros(1, 4, 200)
    scores[0, 0] = torch.rand(200, generator=torch.Generator().manual_seed(1)) + 1
    kept = select_kv(scores, SpecKVConfig(max_capacity_prompt=24, window_size=4, head_budget="adaptive"))
    sizes = (kept >= 0).sum(-1)[0].tolist()
    assert sizes[0] == kept.shape[-1] == 40
    assert sum(sizes) == 80
    assert min(sizes) >= 4
    all_alike = SpecKVConfig(max_capacity_prompt=24, window_size=4, head_budget="adaptive", head_floor=1.0)
    assert (select_kv(scores, all_alike) >= 0).sum(-1)[0].tolist() == [20] * 4


@pytest.mark.parametrize(
    "settings",
    [{"preset": "small"}, {"head_floor": 0}, {"head_floor": None}, {"copied_pieces": -1}, {"verify_lookahead": "no"}],
)
def test_bad_values_are_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SpecKVConfig(**settings)  # type: ignore[arg-type]
