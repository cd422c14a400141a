"""Pieces of the prompt that repeat the question's words and show what follows them."""

from __future__ import annotations

import pytest
import torch
from tiny import random_ids, tiny_pair

from spec_rag import SpecKVConfig, generate, generate_batch
from spec_rag.errors import ConfigError
from spec_rag.generation.prompt_lookup import copied_from_prompt


def prompt_of(*parts: list[int]) -> torch.Tensor:
    return torch.tensor([token for part in parts for token in part])


def test_what_followed_the_questions_words_is_copied_with_them() -> None:
    filler = list(range(1000, 1100))
    prompt = prompt_of(filler[:40], [1, 2, 3, 77, 78], filler[40:80], [900 + i for i in range(29)], [1, 2, 3])
    assert copied_from_prompt(prompt, pieces=4, length=2).tolist() == [1, 2, 3, 77, 78]


def test_the_rarest_words_come_first_pieces_do_not_overlap_and_keep_their_order() -> None:
    rare, common = [5, 6], [7, 8]
    body = [*common, 1, *common, 2, *rare, 3, *common, 4]
    question = [*common, *range(500, 528), *rare]
    copied = copied_from_prompt(prompt_of(body, list(range(600, 640)), question), pieces=1, length=1)
    assert copied.tolist() == [5, 6, 3]
    several = copied_from_prompt(prompt_of(body, list(range(600, 640)), question), pieces=9, length=1)
    assert several.tolist() == [7, 8, 1, 7, 8, 2, 5, 6, 3, 7, 8, 4]


def test_nothing_is_copied_of_a_short_prompt_or_one_that_repeats_nothing() -> None:
    assert copied_from_prompt(torch.arange(20), pieces=4).tolist() == []
    assert copied_from_prompt(torch.arange(200), pieces=4).tolist() == []
    assert copied_from_prompt(torch.empty(0, dtype=torch.long), pieces=4).tolist() == []


def test_copies_observe_the_prompt_and_cost_no_decoding() -> None:
    pair = tiny_pair()
    prompt = torch.cat([random_ids(120), random_ids(120)[10:30]])  # the question repeats a part of the text
    without = SpecKVConfig(max_capacity_prompt=40, window_size=4, kernel_size=5, lookahead="none")
    copying = SpecKVConfig(max_capacity_prompt=40, window_size=4, kernel_size=5, lookahead="copies")
    plain, copied = (generate(pair, prompt, speckv=config, max_new_tokens=4) for config in (without, copying))
    assert copied.lookahead_ids == []
    assert copied.timings.draft_seconds == 0
    assert copied.kept_positions != plain.kept_positions
    rows = generate_batch(pair, [prompt, random_ids(90, 5)], speckv=copying, max_new_tokens=4)
    assert rows[0].output_ids == copied.output_ids
    assert rows[0].kept_positions == copied.kept_positions


def test_a_short_look_ahead_is_joined_by_copies_where_the_preset_says_so() -> None:
    short = SpecKVConfig(lookahead_tokens=8)
    assert [short.copied_pieces_for(by) for by in ("draft", "target", "copies", "none")] == [4, 4, 8, 0]
    assert [SpecKVConfig().copied_pieces_for(by) for by in ("draft", "target", "none")] == [0, 4, 0]
    assert SpecKVConfig(lookahead_tokens=8, preset="paper").copied_pieces_for("draft") == 0
    assert SpecKVConfig(lookahead_tokens=8, copied_pieces=0).copied_pieces_for("draft") == 0
    with pytest.raises(ConfigError, match="copied_pieces=3"):
        SpecKVConfig(lookahead="none", copied_pieces=3)
    with pytest.raises(ConfigError, match="copied_pieces=0"):
        SpecKVConfig(lookahead="copies", copied_pieces=0)


def test_copies_observe_beside_a_look_ahead_that_the_target_writes() -> None:
    speckv = SpecKVConfig(max_capacity_prompt=40, lookahead="target", copied_pieces=2)
    answer = generate(tiny_pair(), random_ids(120), speckv=speckv, max_new_tokens=4)
    assert answer.kv_bytes_kept < answer.kv_bytes_dense
