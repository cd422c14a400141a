"""From scores to positions: smoothing, the capacity, the window, neighbours, and a layer's budget among its heads."""

from __future__ import annotations

import pytest
import torch

from spec_rag import SpecKVConfig, SpecPCConfig
from spec_rag.attention.token_selection import (
    first_distinct,
    select_across_layers,
    select_columns,
    select_kv,
    select_prompt_tokens,
    select_slots,
    smooth,
)


def peaks(tokens: int, *places: tuple[int, float]) -> torch.Tensor:
    scores = torch.zeros(tokens)
    for place, height in places:
        scores[place] = height
    return scores


@pytest.mark.parametrize(
    ("kernel_size", "pool_type", "expected"),
    [
        (1, "max", [4.0, 0.0, 0.0, 2.0, 0.0]),
        (3, "max", [4.0, 4.0, 2.0, 2.0, 2.0]),
        (2, "max", [4.0, 0.0, 2.0, 2.0, 0.0]),  # an even window reaches one further to the right
        (3, "mean", [4 / 3, 4 / 3, 2 / 3, 2 / 3, 2 / 3]),
        (3, "avg", [4 / 3, 4 / 3, 2 / 3, 2 / 3, 2 / 3]),
    ],
)
def test_smoothing_looks_around_each_token_and_sees_zeros_beyond_the_ends(
    kernel_size: int, pool_type: str, expected: list[float]
) -> None:
    scores = peaks(5, (0, 4.0), (3, 2.0))
    torch.testing.assert_close(smooth(scores, kernel_size, pool_type), torch.tensor(expected))
    assert smooth(scores.expand(2, 3, 5), kernel_size, pool_type).shape == (2, 3, 5)


def config(**settings: object) -> SpecPCConfig:
    plain = {"max_capacity_prompt": 6, "window_size": 2, "kernel_size": 1, "neighbor_tokens": 0}
    return SpecPCConfig(**{**plain, **settings})


def test_a_prompt_within_its_capacity_is_kept_whole() -> None:
    assert select_prompt_tokens(torch.rand(6), config()).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_window_is_kept_and_the_best_of_the_others_in_their_order() -> None:
    importance = peaks(20, (3, 5.0), (11, 4.0), (7, 3.0), (1, 2.0), (15, 1.0))
    assert select_prompt_tokens(importance, config()).tolist() == [1, 3, 7, 11, 18, 19]


def test_the_best_token_brings_its_neighbours_before_lesser_ones_come() -> None:
    importance = peaks(20, (10, 5.0), (3, 4.0))
    # of three neighbours: the token itself, the one before and the one behind
    assert select_prompt_tokens(importance, config(neighbor_tokens=3)).tolist() == [3, 9, 10, 11, 18, 19]
    # an even number reaches one further to the right; beyond the prompt there is nothing
    assert select_prompt_tokens(peaks(20, (0, 5.0)), config(neighbor_tokens=4, max_capacity_prompt=5)).tolist() == [
        *(0, 1, 2),
        *(18, 19),
    ]


def test_without_a_number_there_are_as_many_neighbours_as_the_kernel_is_wide() -> None:
    importance = torch.rand(60, generator=torch.Generator().manual_seed(0))
    wide = config(kernel_size=5, neighbor_tokens=None, max_capacity_prompt=20)
    assert torch.equal(
        select_prompt_tokens(importance, wide),
        select_prompt_tokens(importance, config(kernel_size=5, neighbor_tokens=5, max_capacity_prompt=20)),
    )
    assert len(select_prompt_tokens(importance, wide)) == 20


def test_the_first_distinct_positions_keep_their_order_of_appearance() -> None:
    assert first_distinct(torch.tensor([7, 3, 7, 9, 3, 1]), 3).tolist() == [7, 3, 9]
    assert first_distinct(torch.tensor([5, 5]), 4).tolist() == [5]


def kv(**settings: object) -> SpecKVConfig:
    return SpecKVConfig(**{"max_capacity_prompt": 5, "window_size": 2, "kernel_size": 1, **settings})


def test_each_kv_head_keeps_its_own_best_keys() -> None:
    scores = torch.stack([peaks(12, (2, 3.0), (9, 2.0), (4, 1.0)), peaks(12, (11, 3.0), (0, 2.0), (6, 1.0))])[None]
    assert select_kv(scores, kv()).tolist() == [[[2, 4, 9], [0, 6, 11]]]


def test_smoothing_decides_before_the_keys_are_chosen() -> None:
    scores = peaks(12, (5, 3.0))[None, None]
    assert select_kv(scores, kv(kernel_size=3)).tolist() == [[[4, 5, 6]]]


def test_padded_keys_are_taken_only_where_a_row_has_no_others() -> None:
    scores = torch.full((2, 1, 6), 5.0)
    scores[0, 0] = torch.tensor([9.0, 9.0, 1.0, 2.0, 3.0, 4.0])
    scores[1, 0] = torch.tensor([9.0, 9.0, 9.0, 9.0, 1.0, 2.0])
    mask = torch.tensor([[False, False, True, True, True, True], [False] * 4 + [True] * 2])
    assert select_kv(scores, kv(), mask).tolist() == [[[3, 4, 5]], [[3, 4, 5]]]
    ragged = select_kv(scores, kv(head_budget="adaptive"), mask)
    assert ragged.tolist() == [[[3, 4, 5]], [[-1, 4, 5]]]


def test_columns_are_the_best_smoothed_keys_of_each_head_and_of_each_row_without_its_padding() -> None:
    sparse = kv(kernel_size=3, prefill_vertical_size=4)
    scores = torch.stack([peaks(12, (2, 3.0), (9, 2.0)), peaks(12, (11, 3.0), (0, 2.0))])[None]
    assert select_columns(scores, sparse)[0, 0].tolist()[:3] == [1, 2, 3]
    assert select_columns(scores, sparse)[0, 1].tolist() == [0, 1, 10, 11]
    alone = torch.rand(1, 2, 8, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.full((1, 2, 4), 9.0), alone], dim=-1)
    mask = torch.arange(12)[None] >= 4
    assert torch.equal(select_columns(padded, sparse, mask), select_columns(alone, sparse) + 4)
    assert select_columns(padded, sparse, torch.arange(12)[None] >= 10).tolist() == [[[10, 11]] * 2]
    # a row that is short of keys gets padded ones, which stay masked, so that all rows are as wide
    rows = torch.stack([torch.arange(12) >= 4, torch.arange(12) >= 10])
    assert select_columns(padded.expand(2, -1, -1), sparse, rows)[1].tolist() == [[8, 9, 10, 11]] * 2
    assert select_columns(padded, sparse, torch.zeros(1, 12, dtype=torch.bool)).shape == (1, 2, 0)


def test_adaptive_heads_get_the_layers_budget_where_its_best_scores_are() -> None:
    scores = torch.stack([torch.arange(10.0) + 10, torch.arange(10.0)])[None]
    kept = select_kv(scores, kv(max_capacity_prompt=7, head_budget="adaptive"))
    # two heads of five pairs: one is sure for each, and the eight others go to the head that scores higher
    assert kept[0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert kept[0, 1].tolist() == [-1] * 8 + [9]


def test_an_adaptive_head_that_scores_nothing_keeps_a_fifth_of_its_share() -> None:
    scores = torch.zeros(1, 2, 60)
    scores[0, 0] = torch.rand(60, generator=torch.Generator().manual_seed(1)) + 1
    kept = select_kv(scores, kv(max_capacity_prompt=22, head_budget="adaptive"))
    sizes = (kept >= 0).sum(-1)[0].tolist()
    assert sizes == [36, 4]  # 2 heads x 20 pairs, of which a fifth of 20 is sure


def test_pairs_of_all_layers_compete_for_the_budget_and_the_first_stay_everywhere() -> None:
    strong = torch.tensor([[0.0, 0.9, 0.8, 0.7, 0.6], [0.0, 0.1, 0.2, 0.3, 0.4]])
    weak = torch.tensor([[0.0, 0.01, 0.5, 0.02, 0.03], [0.0, 0.0, 0.0, 0.0, 0.0]])
    together = select_across_layers([strong, weak], 2, 1, adaptive=True)
    assert {layer.dtype for layer in together} == {torch.bool}, "pairs are taken by them"
    assert [layer.nonzero().tolist() for layer in together] == [
        [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [1, 0]],
        [[0, 0], [1, 0]],
    ]
    alike = select_across_layers([strong, weak], 2, 1, adaptive=False)
    assert [layer.sum(dim=1).tolist() for layer in alike] == [[2, 2], [2, 2]]
    assert alike[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 4]]
    assert strong[0, 0] == 0


def test_of_pairs_that_were_chosen_before_the_best_are_chosen_and_empty_slots_never() -> None:
    scores = torch.tensor([[[9.0, 1.0, 5.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0, 9.0]]])
    positions = torch.tensor([[[-1, 2, 11, 5, 8], [0, 1, 2, 3, 4]]])
    slots, places = select_slots(scores, positions, kv(max_capacity_prompt=3))
    # in the order of their positions, whatever slots they are in
    assert places.tolist() == [[[5, 8, 11], [2, 3, 4]]]
    assert slots.tolist() == [[[3, 4, 2], [2, 3, 4]]]
    smoothed, _ = select_slots(scores, positions, kv(max_capacity_prompt=3, kernel_size=3))
    assert smoothed[0, 0].tolist() != slots[0, 0].tolist()
    everything, places = select_slots(scores[..., 1:], positions[..., 1:], kv(max_capacity_prompt=9))
    assert places.tolist() == [[[2, 5, 8, 11], [1, 2, 3, 4]]]
    assert everything.tolist() == [[[0, 2, 3, 1], [0, 1, 2, 3]]]


def test_slots_of_a_head_that_keeps_fewer_are_empty_in_front() -> None:
    scores = torch.stack([torch.arange(10.0) + 10, torch.arange(10.0)])[None]
    positions = (torch.arange(10) * 3).expand(1, 2, -1)
    slots, places = select_slots(scores, positions, kv(max_capacity_prompt=5, head_budget="adaptive"))
    assert places[0, 0].tolist() == [3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert places[0, 1].tolist() == [-1] * 8 + [27]
    assert slots[0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert int(slots[0, 1, -1]) == 9
    assert int(slots.min()) >= 0
    # a floor of all of an even split leaves nothing to share
    even = kv(max_capacity_prompt=5, head_budget="adaptive", head_floor=1.0)
    assert (select_slots(scores, positions, even)[1] >= 0).sum(-1).tolist() == [[5, 5]]


def test_no_head_gets_more_than_twice_its_share() -> None:
    scores = torch.stack([torch.arange(40.0) + 100, torch.arange(40.0), torch.arange(40.0)])[None]
    kept = select_kv(scores, kv(max_capacity_prompt=12, head_budget="adaptive"))
    sizes = (kept >= 0).sum(-1)[0].tolist()
    assert sizes[0] == 20
    assert sum(sizes) == 30
    assert min(sizes) >= 2


def test_a_capacity_beyond_the_keys_keeps_them_all() -> None:
    scores = torch.rand(1, 2, 6, generator=torch.Generator().manual_seed(0))
    for head_budget in ("uniform", "adaptive"):
        assert select_kv(scores, kv(max_capacity_prompt=50, head_budget=head_budget)).tolist() == [
            [[0, 1, 2, 3, 4, 5]] * 2
        ]
    assert smooth(torch.zeros(2, 0), 3, "max").shape == (2, 0)
    assert select_across_layers([], 3, 1, adaptive=True) == []


def test_more_first_pairs_than_the_budget_has_are_cut_to_it() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.9, 0.8], [0.1, 0.2, 0.3, 0.4]])
    for adaptive in (True, False):
        (chosen,) = select_across_layers([scores], 2, 4, adaptive=adaptive)
        assert chosen.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    two = select_across_layers([scores, scores.double()], 1, 0, adaptive=True)
    assert [layer.shape for layer in two] == [(2, 4), (2, 4)]
    assert sum(int(layer.sum()) for layer in two) == 4
