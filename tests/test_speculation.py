"""The look-ahead as a guess of the answer: checked several tokens at a time, it never changes a token."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from tiny import random_ids, tiny_model, tiny_pair, tiny_tokenizer

from spec_rag import ModelPair, SpecKVConfig, generate, generate_batch, stream
from spec_rag.generation.prefill import pruned_cache
from spec_rag.generation.prompt_batch import Batch, PaddedPrompts
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import GREEDY
from spec_rag.generation.speculative import ProposedTokens, VerifiedDecoding
from spec_rag.generation.target_calls import generate_from
from spec_rag.results import Answer

KV = SpecKVConfig(max_capacity_prompt=40)
ONE_BY_ONE = replace(KV, verify_lookahead=False)


def same_models() -> ModelPair:
    """A draft that is the target: its look-ahead is what the dense target would write."""
    model = tiny_model(seed=2)
    return ModelPair(draft=model, target=model, tokenizer=tiny_tokenizer())


def counted(pair: ModelPair, config: SpecKVConfig) -> tuple[Answer, int]:
    """An answer, and how often the target ran for it."""
    passes: list[int] = []
    hook = pair.require_target().register_forward_pre_hook(lambda *_: passes.append(1))
    answer = generate(pair, random_ids(150), speckv=config, max_new_tokens=24)
    hook.remove()
    return answer, len(passes)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "config", [KV, SpecKVConfig(max_capacity_prompt=40, window_size=8), replace(KV, lookahead_tokens=5)]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_answer_is_the_same_token_for_token(kind: str, config: SpecKVConfig, seed: int) -> None:
    pair = tiny_pair(kind)
    prompt = random_ids(150, seed)
    checked = generate(pair, prompt, speckv=config, max_new_tokens=24)
    alone = generate(pair, prompt, speckv=replace(config, verify_lookahead=False), max_new_tokens=24)
    assert checked.proposed_tokens > 0 == alone.proposed_tokens
    assert checked.output_ids == alone.output_ids
    assert checked.kept_positions == alone.kept_positions


def test_a_right_guess_saves_a_pass_of_the_target() -> None:
    near = SpecKVConfig(max_capacity_prompt=149, window_size=16, lookahead="draft")  # all but one pair is kept
    checked, passes = counted(same_models(), near)
    alone, passes_alone = counted(same_models(), replace(near, verify_lookahead=False))
    assert checked.output_ids == alone.output_ids
    assert checked.accepted_tokens > 12
    assert passes_alone - passes == checked.accepted_tokens


@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.8, 1.0])
def test_any_guess_leads_to_the_same_tokens_and_right_ones_in_fewer_passes(agreement: float) -> None:
    target = tiny_model(seed=2)
    batch = Batch.of([random_ids(120)])
    prompts = PaddedPrompts.of(target, batch)
    speckv = SpecKVConfig(max_capacity_prompt=40, lookahead="none")
    request = GenerationRequest(ModelPair(target=target), speckv=speckv)
    expected = generate_from(target, prompts, pruned_cache(request, batch, prompts), 60, **GREEDY)[0, 120:]
    chance = torch.Generator().manual_seed(3)
    other = torch.rand(len(expected), generator=chance) >= agreement
    guess = torch.where(other, (expected + 1) % 300, expected)
    proposals = ProposedTokens(guess.tolist())
    cache = pruned_cache(request, batch, prompts)
    written = generate_from(target, prompts, cache, 60, custom_generate=VerifiedDecoding(cache, proposals), **GREEDY)[
        0, 120:
    ]
    assert written.tolist() == expected.tolist()
    assert proposals.accepted >= agreement * 0.7 * len(expected)
    assert cache.get_seq_length() == 120 + len(written) - 1
    assert all(layer.positions.shape == layer.keys.shape[:3] for layer in cache.layers)


def test_proposals_find_the_look_ahead_again_behind_an_added_and_a_left_out_token() -> None:
    proposals = ProposedTokens([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert proposals.next(3) == [1, 2, 3]
    proposals.update(3, [1, 3])  # 2 was left out
    assert proposals.next(1) == [4]
    proposals.update(1, [20])  # another in the place of 4
    assert proposals.next(9)[0] == 5
    assert proposals.next(0) == []


def test_stop_strings_streams_and_processors_see_what_they_would_see_token_by_token() -> None:
    pair = same_models()
    prompt = random_ids(150, 1)
    whole = generate(pair, prompt, speckv=ONE_BY_ONE, max_new_tokens=24).text
    stop = whole[8:10]
    checked = generate(pair, prompt, speckv=KV, max_new_tokens=24, stop=stop)
    alone = generate(pair, prompt, speckv=ONE_BY_ONE, max_new_tokens=24, stop=stop)
    assert (checked.text, checked.output_ids, checked.finish_reason) == (alone.text, alone.output_ids, "stop")
    pieces = stream(pair, prompt, speckv=KV, max_new_tokens=24)
    assert "".join(pieces) == whole == pieces.answer.text
    for options in ({"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 20}):
        assert (
            generate(pair, prompt, speckv=KV, max_new_tokens=24, **options).output_ids
            == generate(pair, prompt, speckv=ONE_BY_ONE, max_new_tokens=24, **options).output_ids
        )


def test_a_cancelled_generation_ends_within_a_token() -> None:
    cancelled = threading.Event()

    class CancelAtThird:
        seen = 0

        def put(self, value: torch.Tensor) -> None:
            self.seen += 1
            if self.seen == 4:  # the prompt is the first
                cancelled.set()

        def end(self) -> None:
            self.ended = True

    streamer = CancelAtThird()
    answer = generate(
        same_models(), random_ids(150), speckv=KV, max_new_tokens=24, streamer=streamer, cancelled=cancelled
    )
    assert (answer.completion_tokens, answer.finish_reason, streamer.ended) == (3, "cancelled", True)


def test_batches_sampling_and_beams_are_written_token_by_token_and_rows_equal_themselves_alone() -> None:
    pair = tiny_pair()
    prompts = [random_ids(150, 1), random_ids(120, 2)]
    rows = generate_batch(pair, prompts, speckv=KV, max_new_tokens=16)
    alone = [generate(pair, prompt, speckv=KV, max_new_tokens=16) for prompt in prompts]
    assert [row.output_ids for row in rows] == [answer.output_ids for answer in alone]
    assert all(row.proposed_tokens == 0 for row in rows)
    assert all(answer.proposed_tokens > 0 for answer in alone)
    for options in ({"temperature": 0.7, "seed": 1}, {"num_beams": 2}):
        assert generate(pair, prompts[0], speckv=KV, max_new_tokens=8, **options).proposed_tokens == 0


def test_a_sliding_window_that_has_moved_on_cannot_be_rolled_back_so_nothing_is_guessed() -> None:
    pair = tiny_pair("mistral", sliding_window=48)
    config = SpecKVConfig(max_capacity_prompt=40, window_size=8)
    answer = generate(pair, random_ids(150), speckv=config, max_new_tokens=8)
    assert answer.proposed_tokens == 0
