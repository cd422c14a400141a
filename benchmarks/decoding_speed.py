"""What checking a look-ahead saves in decoding: tokens per second, side by side in one run."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from transformers import PreTrainedConfig

from spec_rag.generation.decoding import PaddedPrompts, generate_from, pruned_cache
from spec_rag.generation.prompt_batch import Batch
from spec_rag.generation.sampling import GREEDY
from spec_rag.generation.speculative import Guesses, VerifiedDecoding
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
    config = SpecKVConfig(max_capacity_prompt=capacity, lookahead="none")
    answer = generate_from(target, prompts, pruned_cache(target, batch, prompts, config), new_tokens, **GREEDY)[
        0, tokens:
    ]
    chance = torch.Generator().manual_seed(2)
    taken: dict[str, list[float]] = {"token by token": [], "look-ahead checked": []}
    right = asked = 0
    for _ in range(runs):
        wrong = torch.rand(new_tokens, generator=chance) >= agreement
        guesses = Guesses(
            torch.where(wrong, torch.randint(100, 49000, (new_tokens,), generator=chance), answer).tolist()
        )
        for name in taken:
            cache = pruned_cache(target, batch, prompts, config)
            assert cache is not None
            verified = {"custom_generate": VerifiedDecoding(cache, guesses)}
            checks: dict[str, Any] = {} if name == "token by token" else verified
            started = time.perf_counter()
            written = generate_from(target, prompts, cache, new_tokens, **GREEDY, **checks)[0, tokens:]
            taken[name].append(time.perf_counter() - started)
            if not torch.equal(written, answer):
                raise AssertionError(f"{name}: another answer than the target's own.")
        right, asked = right + guesses.right, asked + guesses.asked
    middle = {name: statistics.median(values) for name, values in taken.items()}
    ratio = middle["token by token"] / middle["look-ahead checked"]
    rows = [f"| {name} | {new_tokens / seconds:.1f} |" for name, seconds in middle.items()]
    return "\n".join(
        [
            f"| {new_tokens} new tokens behind {capacity} pairs, median of {runs} | tokens per second |",
            "|---|---|",
            *rows,
            f"| ratio, {right} of {asked} guesses right | {ratio:.2f} |",
        ]
    )
