"""What checking a look-ahead saves in decoding: tokens per second, side by side in one run."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from transformers import PreTrainedConfig

from spec_rag.generation.prefill import pruned_cache
from spec_rag.generation.prompt_batch import Batch, PaddedPrompts
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import GREEDY
from spec_rag.generation.speculative import ProposedTokens, VerifiedDecoding
from spec_rag.generation.target_calls import generate_from
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import SpecKVConfig


def shape_of_360m() -> PreTrainedConfig:
    """The config of a model of 360M parameters with the default draft's vocabulary, which never ends an answer."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        "llama",
        vocab_size=49152,
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        max_position_embeddings=16384,
        eos_token_id=None,
    )


def lookahead(
    tokens: int = 512, runs: int = 3, new_tokens: int = 64, capacity: int = 128, agreement: float = 0.8
) -> str:
    """Tokens per second of a target that checks a look-ahead, and of the same target token by token, in turn.

    The target has the shape of a model of 360M parameters and random weights. Both ways decode from the same pruned
    pairs. The look-ahead is the target's own answer, in which each token is replaced by another with probability
    1 - agreement: a draft that is right four times in five, and finds back into the answer behind a wrong token.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    target = AutoModelForCausalLM.from_config(shape_of_360m(), dtype=torch.float32).eval()
    batch = Batch.of([torch.randint(100, 49000, (tokens,), generator=torch.Generator().manual_seed(1))])
    prompts = PaddedPrompts.of(target, batch)
    speckv = SpecKVConfig(max_capacity_prompt=capacity, lookahead="none")
    request = GenerationRequest(ModelPair(target=target), speckv=speckv)
    answer = generate_from(target, prompts, pruned_cache(request, batch, prompts), new_tokens, **GREEDY)[0, tokens:]
    chance = torch.Generator().manual_seed(2)
    taken: dict[str, list[float]] = {"token by token": [], "look-ahead checked": []}
    right = asked = 0
    for _ in range(runs):
        wrong = torch.rand(new_tokens, generator=chance) >= agreement
        proposals = ProposedTokens(
            torch.where(wrong, torch.randint(100, 49000, (new_tokens,), generator=chance), answer).tolist()
        )
        for name in taken:
            cache = pruned_cache(request, batch, prompts)
            assert cache is not None
            verified = {"custom_generate": VerifiedDecoding(cache, proposals)}
            checks: dict[str, Any] = {} if name == "token by token" else verified
            started = time.perf_counter()
            written = generate_from(target, prompts, cache, new_tokens, **GREEDY, **checks)[0, tokens:]
            taken[name].append(time.perf_counter() - started)
            if not torch.equal(written, answer):
                raise AssertionError(f"{name}: another answer than the target's own.")
        right, asked = right + proposals.accepted, asked + proposals.count
    middle = {name: statistics.median(values) for name, values in taken.items()}
    ratio = middle["token by token"] / middle["look-ahead checked"]
    rows = [f"| {name} | {new_tokens / seconds:.1f} |" for name, seconds in middle.items()]
    return "\n".join(
        [
            f"| {new_tokens} new tokens behind {capacity} pairs, median of {runs} | tokens per second |",
            "|---|---|",
            *rows,
            f"| ratio, {right} of {asked} proposals right | {ratio:.2f} |",
        ]
    )
