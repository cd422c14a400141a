"""Selected prompt tokens with gaps in their positions: every way to call the target reads them as one text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import FAMILIES, random_ids, tiny_model, tiny_pair, tiny_tokenizer
from transformers import DynamicCache

from spec_rag import ModelPair, SpecKVConfig, SpecPCConfig, generate, generate_batch, stream
from spec_rag.errors import ConfigError
from spec_rag.generation.answer_likelihood import answer_likelihood
from spec_rag.generation.target_calls import read_logits


def specpc(positions: str, capacity: int = 40) -> SpecPCConfig:
    return SpecPCConfig(
        max_capacity_prompt=capacity, window_size=16, kernel_size=8, starting_layer_index=1, positions=positions
    )


def pair_of(kind: str, **options: Any) -> ModelPair:
    """A target of that family, and a draft that chooses tokens for it."""
    target = tiny_model(kind, seed=2, layers=3, **FAMILIES[kind], **options)
    return ModelPair(draft=tiny_model(seed=1), target=target, tokenizer=tiny_tokenizer())


def token_by_token(pair: ModelPair, prompt: Any, positions: list[int], answer: list[int]) -> float:
    """The answer's log-likelihood, each token fed alone, so that nothing can be taken for several texts."""
    target, cache, total = pair.require_target(), DynamicCache(), 0.0
    ids = [*prompt, *answer]
    places = [*positions, *range(positions[-1] + 1, positions[-1] + 1 + len(answer))]
    with torch.no_grad():
        for i in range(len(ids) - 1):
            logits = target(
                input_ids=torch.tensor([ids[i : i + 1]]),
                position_ids=torch.tensor([places[i : i + 1]]),
                past_key_values=cache,
                use_cache=True,
            ).logits[0, -1]
            if i >= len(prompt) - 1:
                total += float(logits.float().log_softmax(-1)[ids[i + 1]])
    return total


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma3_text"])
@pytest.mark.parametrize("positions", ["original", "packed"])
def test_the_likelihood_of_an_answer_is_that_of_its_generation(kind: str, positions: str, implementation: str) -> None:
    pair = pair_of(kind, attn_implementation=implementation)
    for seed in range(3):
        prompt = random_ids(150, seed=seed)
        config = specpc(positions)
        answer = generate(pair, prompt, config, max_new_tokens=6, eos_token_id=-1)
        kept = answer.selected_positions
        assert kept is not None
        assert kept[-1] - kept[0] >= len(kept), "there are gaps"
        places = kept if positions == "original" else list(range(len(kept)))
        expected = token_by_token(pair, prompt[kept].tolist(), places, answer.output_ids)
        told = answer_likelihood(pair, prompt, answer.output_ids, config)
        assert told.is_greedy, "greedy decoding has written it"
        assert told.log_likelihood == pytest.approx(expected, abs=1e-3)


def test_pruned_caches_agree_with_their_likelihood_on_selected_tokens() -> None:
    pair = tiny_pair()
    prompt, config = random_ids(150), specpc("original", 60)
    speckv = SpecKVConfig(max_capacity_prompt=30, window_size=8, lookahead_tokens=6)
    answer = generate(pair, prompt, config, speckv, max_new_tokens=6, eos_token_id=-1)
    assert answer_likelihood(pair, prompt, answer.output_ids, config, speckv).is_greedy


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_rows_streams_and_single_answers_agree_on_selected_tokens(kind: str) -> None:
    pair, config = pair_of(kind), specpc("original")
    prompts = [random_ids(n, seed=n) for n in (150, 90, 150)]
    rows = generate_batch(pair, prompts, config, max_new_tokens=6)
    for prompt, row in zip(prompts, rows, strict=True):
        alone = stream(pair, prompt, config, max_new_tokens=6)
        assert "".join(alone) == row.text
        assert alone.answer is not None
        assert alone.answer.output_ids == row.output_ids
        assert row.finish_reason == "stop" or answer_likelihood(pair, prompt, row.output_ids, config).is_greedy


def test_logits_without_a_cache_see_behind_a_gap() -> None:
    model = tiny_model()
    ids, positions = random_ids(6)[None], torch.tensor([[0, 1, 5, 6, 9, 10]])
    before = read_logits(model, ids, positions)[0, -1]
    changed = torch.cat([(ids[:, :1] + 1) % 250, ids[:, 1:]], dim=1)
    assert not torch.allclose(before, read_logits(model, changed, positions)[0, -1])


def test_generation_without_a_cache_is_refused() -> None:
    for config in (None, specpc("original")):
        with pytest.raises(ConfigError, match="use_cache=False is not supported"):
            generate(tiny_pair(), random_ids(150), config, max_new_tokens=3, use_cache=False)
        assert generate(tiny_pair(), random_ids(150), config, max_new_tokens=3, use_cache=True).output_ids
