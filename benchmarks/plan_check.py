"""The plan's formulas against this processor: passes of models of random weights, predicted and timed in one run.

This module compares; it knows neither the formulas nor how passes are timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spec_rag.evaluation.planning.costs import Pair, prefill_flops
from spec_rag.evaluation.planning.devices import Device
from spec_rag.evaluation.planning.processor import measured_cpu, random_model, timed
from spec_rag.evaluation.planning.shapes import ModelShape, model_shape
from spec_rag.utils.progress import steps

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
        device: None measures this processor anew for each model.
    """
    found = []
    with steps("Checking", len(shapes)) as done:
        for shape in shapes:
            pair = Pair(shape, shape, device or measured_cpu())
            taken = timed(random_model(shape), shape, tokens, runs)
            predicted = pair.read(prefill_flops(shape, tokens), shape, tokens)
            found.append(Checked(shape.name, f"prefill of {tokens:,} tokens", predicted, taken.prefill))
            found.append(Checked(shape.name, "decoding step", pair.token_seconds(shape, tokens), taken.step))
            done()
    return found


def as_markdown(found: Sequence[Checked]) -> str:
    """A row per pass."""
    lines = ["| model | pass | predicted, s | measured, s | error |", "|---|---|---|---|---|"]
    lines += [f"| {c.model} | {c.work} | {c.predicted:.4g} | {c.measured:.4g} | {c.error:+.0%} |" for c in found]
    return "\n".join(lines)
