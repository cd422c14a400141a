"""Attention of a question to passages that were encoded before, all visible at once.

This module replaces attention calls; it does not know what their scores are used for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from spec_rag_kernels import questions_attention
from torch import Tensor

from spec_rag.attention.capture import AttentionCall, Replaced
from spec_rag.compression.passages import EncodedPassage
from spec_rag.errors import UnsupportedModelError


class ParallelContextAttention:
    """Each question attends to the instruction, itself, and in the layers that they have, all passages.

    The questions stand behind each other in one row, so that the shared keys are neither copied nor read per question.

    Args:
        prefix: the instruction.
        passages: all at the positions right behind it.
        lengths: tokens of each question.
        start: position of each question's first token.
        first_layer: the first layer whose attention is kept.
        backend: kernel backend; None chooses by device.

    Attributes:
        scores: per layer from `first_layer` on, [questions, heads, passage tokens]: the most that any token of a
            question attends to each token of the passages.
    """

    def __init__(
        self,
        prefix: EncodedPassage,
        passages: Sequence[EncodedPassage],
        lengths: Sequence[int],
        start: int,
        first_layer: int,
        backend: str | None = None,
    ) -> None:
        self.parts = [prefix, *passages]
        self.lengths = lengths
        self.first_layer = first_layer
        self.backend = backend
        self.scores: list[Tensor] = []
        self._queries = torch.cat([torch.arange(start, start + length) for length in lengths])
        self._keys = torch.cat(
            [torch.arange(prefix.tokens), *(prefix.tokens + torch.arange(p.tokens) for p in passages)]
        )

    def __call__(self, call: AttentionCall) -> Replaced:
        """The attention of one layer."""
        _refuse_unscored(call)
        parts = [part.of_layer(call.layer) for part in self.parts if part.has(call.layer)]
        keys, values = (torch.cat([x.to(call.query) for x in side], dim=1)[None] for side in zip(*parts, strict=True))
        output, scores = questions_attention(
            call.query,
            keys,
            values,
            call.key,
            call.value,
            self.lengths,
            scaling=call.scaling,
            hidden=_outside_window(self._queries, self._keys[: keys.shape[2]], call),
            with_scores=call.layer >= self.first_layer,
            backend=self.backend,
        )
        if scores is not None:
            self.scores.append(scores[:, :, self.parts[0].tokens :].to(self.parts[0].keys.device))
        return Replaced(output)


def _outside_window(queries: Tensor, keys: Tensor, call: AttentionCall) -> Tensor | None:
    """bool [queries, keys]: what the layer's sliding window hides; None where it hides nothing."""
    if call.sliding_window is None or int(queries.max()) < call.sliding_window:
        return None
    return (queries[:, None] - keys >= call.sliding_window).to(call.query.device)


def _refuse_unscored(call: AttentionCall) -> None:
    if call.softcap is not None or call.sinks is not None:
        raise UnsupportedModelError(
            "The draft caps its attention logits or has attention sinks, which reading documents side by side does not "
            "do: choose another draft, or scoring='joint'."
        )
