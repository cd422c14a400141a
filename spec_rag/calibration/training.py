"""Learning which heads of a draft to trust, on questions that the package generates itself.

A head is worth the nats that it gains over guessing when the needed sentences of a question are to be told from the
others by its attention alone. This module does not know files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spec_rag.calibration.generated_questions import GeneratedQuestion, generated_questions
from spec_rag.compression.document_draft import Draft
from spec_rag.compression.features import CompressionRequest, Features
from spec_rag.compression.head_weights import Calibration, layer_range
from spec_rag.compression.passages import split_passages
from spec_rag.compression.prefilter import gather_features
from spec_rag.compression.scoring import PASSAGE_TOKENS, UNIT_TOKENS, best_tokens
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.text.units import Span, unit_spans

_SHARPNESS = 1.5  # of the softmax over units; a good head's best unit stands about two deviations out
_LEAST_WEIGHT = 0.003


def calibrate(
    draft: Any,
    questions: int = 120,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Learn how far each head is to be trusted.

    Args:
        draft: as for `compress`; by name, no more than the first two thirds of its layers are loaded.
        questions: how many are generated; each takes as long as reading ten documents of about 130 tokens.
        seed: of the questions.
        tell: called with the number of questions done and in all.

    Raises:
        ConfigError: `questions` is below 1, the draft has no tokenizer, or no head does better than guessing.
    """
    config = CompressionConfig(likelihood=False, title_links=False, calibration=None, cascade="never")
    draft = Draft.of(draft, config=config)
    first, _ = layer_range(draft.total_layers)
    gains: list[Tensor] = []
    tell(0, questions)
    for case in generated_questions(questions, seed):
        units = [unit_spans(document.text, "sentence") for document in case.documents]
        passages = split_passages(draft.tokenizer, case.documents, units)
        with draft.lock.hold():
            signals = gather_features(draft, CompressionRequest(case.documents, units, passages, case.question, config))
        gains.append(head_gains(signals, needed_units(case, units)))
        tell(len(gains), questions)
    unit, passage = torch.stack(gains).mean(0).clamp(min=0)
    if not (unit.any() and passage.any()):
        raise ConfigError(
            f"draft={draft.name!r}: none of its heads finds the needed sentences better than guessing does, over "
            f"{questions} questions. Take more questions or another draft; this one also works without a calibration."
        )
    return Calibration(
        draft=draft.name,
        layers=draft.total_layers,
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


def head_gains(signals: Features, needed: Tensor) -> Tensor:
    """Nats that each head gains over guessing the needed units of one question.

    Args:
        signals: with the attention of single heads.
        needed: bool [units].

    Returns:
        [2, layers, heads]: by the attention to the units themselves, and by that to their passages.
    """
    gain = signals.attention
    own = best_tokens(gain, signals.ranges, UNIT_TOKENS)
    passage = best_tokens(gain, signals.passage_ranges, PASSAGE_TOKENS)[..., signals.passages]
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
