"""Learning which heads of a draft to trust, on questions that the package generates itself.

A head is worth the nats that it gains over guessing when the needed sentences of a question are to be told from the
others by its contrast alone. This module does not know files.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spec_rag.calibration import Calibration, layer_range
from spec_rag.config import CompressionConfig
from spec_rag.errors import ConfigError
from spec_rag.evidence import gather_evidence, split_passages
from spec_rag.generated_questions import GeneratedQuestion, generated_questions
from spec_rag.models import LoadedModel
from spec_rag.scoring import PASSAGE_TOKENS, UNIT_TOKENS, Evidence, best_tokens, contrast
from spec_rag.units import Span, unit_spans

_SHARPNESS = 1.5  # of the softmax over units; a good head's best unit stands about two deviations out
_LEAST_WEIGHT = 0.003


def calibrate(
    loaded: LoadedModel,
    questions: int = 120,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Learn how far each head is to be trusted.

    Args:
        loaded: the draft; its first two thirds of layers are enough (`load_model(..., scoring_only=True)`).
        questions: how many are generated; each takes as long as reading ten documents of about 130 tokens.
        seed: of the questions.
        tell: called with the number of questions done and in all.

    Raises:
        ConfigError: `questions` is below 1, the draft has no tokenizer, or no head does better than guessing.
    """
    if loaded.tokenizer is None:
        raise ConfigError(f"draft={loaded.name!r} has no tokenizer: give it by name, or in a ModelPair with one.")
    first, _ = layer_range(loaded.total_layers)
    gains: list[Tensor] = []
    tell(0, questions)
    for case in generated_questions(questions, seed):
        units = [unit_spans(document.text, "sentence") for document in case.documents]
        with loaded.lock.hold():
            evidence = gather_evidence(
                loaded,
                case.documents,
                units,
                split_passages(loaded.tokenizer, case.documents, units),
                case.question,
                CompressionConfig(likelihood=False, links=False),
                index=None,
                embedder=None,
                backend=None,
            )
        gains.append(head_gains(evidence, needed_units(case, units)))
        tell(len(gains), questions)
    unit, passage = torch.stack(gains).mean(0).clamp(min=0)
    if not (unit.any() and passage.any()):
        raise ConfigError(
            f"draft={loaded.name!r}: none of its heads finds the needed sentences better than guessing does, over "
            f"{questions} questions. Take more questions or another draft; this one also works without a calibration."
        )
    return Calibration(
        draft=loaded.name,
        layers=loaded.total_layers,
        heads=int(unit.shape[1]),
        unit=_by_place(unit, first),
        passage=_by_place(passage, first),
        questions=questions,
        seed=seed,
    )


def needed_units(case: GeneratedQuestion, units: list[list[Span]]) -> Tensor:
    """bool [units of all documents]: which hold a part of what is needed for the answer."""
    return torch.tensor(
        [
            any(d == document and a < end and b > start for document, start, end in case.needed)
            for d, spans in enumerate(units)
            for a, b in spans
        ]
    )


def head_gains(evidence: Evidence, needed: Tensor) -> Tensor:
    """Nats that each head gains over guessing the needed units of one question.

    Args:
        evidence: with the attention of single heads.
        needed: bool [units].

    Returns:
        [2, layers, heads]: by the contrast of the units themselves, and by that of their passages.
    """
    gain = contrast(evidence.attention, evidence.neutral)
    own = best_tokens(gain, evidence.ranges, UNIT_TOKENS)
    passage = best_tokens(gain, evidence.passage_ranges, PASSAGE_TOKENS)[..., evidence.passages]
    pooled = torch.stack([own, passage]).sqrt()
    scores = (pooled - pooled.mean(-1, keepdim=True)) / (pooled.std(-1, keepdim=True) + 1e-3)
    log_p = (_SHARPNESS * scores).log_softmax(-1)
    return log_p[..., needed].mean(-1) + math.log(len(needed))


def _by_place(weights: Tensor, first_layer: int) -> dict[str, float]:
    shares = weights / weights.sum()
    return {
        f"{first_layer + layer}.{head}": round(float(share), 4)
        for layer, row in enumerate(shares)
        for head, share in enumerate(row)
        if share >= _LEAST_WEIGHT
    }
