"""What this machine's processor can do, by two small decoders of unlike width.

From the two follows what grows with the products, and what does not.

This module builds and times models of random weights; it does not know whose costs are foretold.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from spec_rag.evaluation.planning.costs import prefill_flops, step_bytes
from spec_rag.evaluation.planning.devices import Device
from spec_rag.evaluation.planning.shapes import ModelShape
from spec_rag.evaluation.speed import seconds

_NARROW = ModelShape("narrow", 4, 384, 1024, 6, 2, 64, 32768, tied=True)
_WIDE = ModelShape("wide", 4, 1280, 3456, 20, 4, 64, 32768, tied=True)
_TOKENS = 768
_RUNS = 5
_STEPS = 5


@dataclass(frozen=True)
class PassTimes:
    """Seconds of a prefill, and of a decoding step behind it."""

    prefill: float
    step: float


def measured_cpu() -> Device:
    """This machine's processor at float32.

    With F products per second, B bytes per second, and what is between the products, two decoders of unlike width give
    two equations for a prefill (its FLOPs / F + tokens x layers x width x between) and two for a step (its bytes / B +
    layers x what a layer takes to start).
    """
    shapes = (_NARROW, _WIDE)
    times = [timed(random_model(shape), shape, _TOKENS, _RUNS) for shape in shapes]
    per_flop, between = _solved(
        [(prefill_flops(shape, _TOKENS), _TOKENS * shape.layers * shape.hidden) for shape in shapes],
        [own.prefill for own in times],
    )
    per_byte, layer = _solved(
        [(step_bytes(shape, _TOKENS, 4), shape.layers) for shape in shapes], [own.step for own in times]
    )
    return Device("cpu", 1 / per_flop, 1 / per_byte, None, 32, 1.0, 1.0, between, layer)


def _solved(counts: Sequence[tuple[float, float]], taken: Sequence[float]) -> tuple[float, float]:
    """What one of each of the two counts takes; where noise makes the second negative, it takes nothing."""
    (a, b), (c, d) = counts
    one, other = taken
    second = (a * other - c * one) / (a * d - c * b)
    if second < 0:
        return other / c, 0.0
    first = (one - b * second) / a
    return (first, second) if first > 0 else (other / c, 0.0)


def random_model(shape: ModelShape) -> PreTrainedModel:
    """A decoder of that shape with random weights, at float32."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=1 << 15,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def timed(model: PreTrainedModel, shape: ModelShape, tokens: int, runs: int) -> PassTimes:
    """Median seconds of a prefill of so many tokens, and of a step behind it, after a run that warms up."""
    ids = torch.randint(0, shape.vocabulary, (1, tokens))
    reading, writing = [], []
    with torch.no_grad():
        for _ in range(runs + 1):
            cache = DynamicCache()
            reading.append(seconds(lambda cache=cache: model(ids, past_key_values=cache, logits_to_keep=1)))  # type: ignore[misc]
            step = lambda cache=cache: model(ids[:, :1], past_key_values=cache)  # noqa: E731
            writing.append(statistics.median(seconds(step) for _ in range(_STEPS)))
    return PassTimes(statistics.median(reading[1:]), statistics.median(writing[1:]))
