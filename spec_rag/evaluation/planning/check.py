"""The plan's formulas against this processor: passes of models of random weights, predicted and timed in one run.

This module times models; it does not know the formulas.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from spec_rag.evaluation.planning.costs import Pair, prefill_flops
from spec_rag.evaluation.planning.devices import Device, measured_cpu
from spec_rag.evaluation.planning.shapes import ModelShape, model_shape
from spec_rag.progress import steps

SMALL = ModelShape("8 layers of 512", 8, 512, 1408, 8, 4, 64, 49152, tied=True)
SIZES = (SMALL, model_shape("SmolLM2-135M"), model_shape("SmolLM2-360M"))


@dataclass(frozen=True)
class Checked:
    """One pass, in seconds."""

    model: str
    work: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """How much longer it took than predicted, as a share of the prediction."""
        return self.measured / self.predicted - 1


def checked(
    shapes: Sequence[ModelShape] = SIZES, tokens: int = 1024, runs: int = 3, device: Device | None = None
) -> list[Checked]:
    """A prefill and a decoding step behind it, of a model of each shape.

    Args:
        shapes: of the models, which are built of random weights.
        tokens: of the prompt.
        runs: the median of so many counts.
        device: None measures this processor's peaks anew for each model.
    """
    found = []
    with steps("Checking", len(shapes)) as done:
        for shape in shapes:
            model = _model(shape)
            own = device or measured_cpu()
            pair = Pair(shape, shape, own)
            reading, writing = _taken(model, shape, tokens, runs)
            predicted = pair.read(prefill_flops(shape, tokens), shape, tokens)
            found.append(Checked(shape.name, f"prefill of {tokens:,} tokens", predicted, reading))
            found.append(Checked(shape.name, "decoding step", pair.token_seconds(shape, tokens), writing))
            done()
    return found


def _model(shape: ModelShape) -> PreTrainedModel:
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


def _taken(model: PreTrainedModel, shape: ModelShape, tokens: int, runs: int) -> tuple[float, float]:
    """Median seconds of a prefill, and of a step behind it, after a run that warms up."""
    ids = torch.randint(0, shape.vocabulary, (1, tokens))
    reading, writing = [], []
    with torch.no_grad():
        for _ in range(runs + 1):
            cache = DynamicCache()
            reading.append(_seconds(lambda cache=cache: model(ids, past_key_values=cache, logits_to_keep=1)))  # type: ignore[misc]
            own = [_seconds(lambda cache=cache: model(ids[:, :1], past_key_values=cache)) for _ in range(5)]  # type: ignore[misc]
            writing.append(statistics.median(own))
    return statistics.median(reading[1:]), statistics.median(writing[1:])


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def as_markdown(found: Sequence[Checked]) -> str:
    """A row per pass."""
    lines = ["| model | pass | predicted, s | measured, s | error |", "|---|---|---|---|---|"]
    lines += [f"| {c.model} | {c.work} | {c.predicted:.4g} | {c.measured:.4g} | {c.error:+.0%} |" for c in found]
    return "\n".join(lines)
