"""What stands in for a draft's attention while a question looks at passages that were read before.

Side by side, the question sees all passages at once; one by one, each row sees its own. This module knows attention
calls; it does not know which layers count, or what their attention is used for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
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


class PerPassageAttention:
    """Each row attends to the instruction, itself, and in the layers that it has, its own passage.

    Args:
        prefix: the instruction.
        passages: one per row, right behind the instruction.
        queries: tokens of the question that each row asks.
        start: position of the question's first token; None puts it right behind each row's passage.
    """

    def __init__(
        self, prefix: EncodedPassage, passages: Sequence[EncodedPassage], queries: int, start: int | None = None
    ) -> None:
        self.prefix = prefix
        self.passages = passages
        self.width = max(p.tokens for p in passages)
        lengths = torch.tensor([p.tokens for p in passages])[:, None]
        end = prefix.tokens + lengths
        own = (end if start is None else torch.full_like(end, start)) + torch.arange(queries)
        rows = len(passages)
        behind = torch.arange(prefix.tokens, prefix.tokens + self.width).expand(rows, -1)
        # what is padded stands behind every query, so causality hides it
        behind = torch.where(behind < end, behind, own[:, -1:] + 1)
        self._queries = own[:, :, None]
        self._keys = torch.cat([torch.arange(prefix.tokens).expand(rows, -1), behind, own], dim=1)[:, None]
        places = torch.arange(self._keys.shape[-1])
        self._frame = (places < prefix.tokens) | (places >= prefix.tokens + self.width)  # all but the passages

    def __call__(self, call: AttentionCall) -> Replaced:
        """The attention of one layer."""
        _refuse_unscored(call)
        seen = self._keys <= self._queries
        if not self.passages[0].has(call.layer):
            seen = seen & self._frame
        if call.sliding_window is not None:
            seen = seen & (self._queries - self._keys < call.sliding_window)
        keys, values = self._laid_out(call)
        return Replaced(
            F.scaled_dot_product_attention(
                call.query,
                keys,
                values,
                attn_mask=seen[:, None].to(call.query.device),
                scale=call.scaling,
                enable_gqa=call.query.shape[1] != call.key.shape[1],
            )
        )

    def _laid_out(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """[rows, KV heads, prefix + widest passage + queries, dim]: keys and values of everything a row may see."""
        laid_out = []
        for side, own in enumerate((call.key, call.value)):
            prefix = self.prefix.of_layer(call.layer)[side].to(own).expand(len(self.passages), -1, -1, -1)
            if self.passages[0].has(call.layer):
                parts = [p.of_layer(call.layer)[side].to(own) for p in self.passages]
                padded = torch.stack([F.pad(part, (0, 0, 0, self.width - part.shape[1])) for part in parts])
            else:
                padded = own.new_zeros(*own.shape[:2], self.width, own.shape[3])
            laid_out.append(torch.cat([prefix, padded, own], dim=2))
        return laid_out[0], laid_out[1]


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
