"""Among the pairs of a context that was read once, those that one question needs.

The question, and pieces of the context that repeat its words, are shown to the target behind the context; what they
attend to stays for the answer (the scores and the selection of SpecKV; paper, section 4.1). The context itself is left
as it is. This module does not know how answers are generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from spec_rag_kernels import window_scores
from torch import Tensor
from transformers import PreTrainedModel

from spec_rag.attention.capture import AttentionCall, base_attention, capture
from spec_rag.attention.token_selection import select_slots
from spec_rag.generation.prompt_lookup import copied_from_prompt
from spec_rag.generation.pruned_cache import MASK_PER_HEAD, DecodeMasks, PrunedCache
from spec_rag.options.compression import SpecKVConfig
from spec_rag.text.tokenization import left_pad, right_pad


def chooses_again(cache: PrunedCache, speckv: SpecKVConfig | None) -> bool:
    """Whether some layer holds more of the context than one question may take."""
    if speckv is None or speckv.max_capacity_prompt is None:
        return False
    capacity = speckv.max_capacity_prompt
    return any(not layer.is_sliding and layer.keys.shape[2] > capacity for layer in cache.layers)


def prune_for_query(
    target: PreTrainedModel,
    cache: PrunedCache,
    context_ids: Tensor,
    questions: Sequence[Tensor],
    speckv: SpecKVConfig,
    backend: str | None = None,
) -> None:
    """Cut a cache of a context to at most `max_capacity_prompt` pairs per KV head, for each question its own.

    Args:
        target: the model that has read the context.
        cache: as `ContextCache.start` lays it out, a row per question.
        context_ids: int64 [tokens].
        questions: int64 [tokens] each.
        speckv: capacity, smoothing, head budget; without look-ahead the question alone observes.
        backend: kernel backend; None chooses by device.
    """
    pieces = speckv.pieces_beside("none" if speckv.lookahead == "none" else "copies")
    copies = [copied_from_prompt(torch.cat([context_ids.cpu(), own.cpu()]), pieces) for own in questions]
    asked, mask = left_pad(list(questions), 0)
    copied, there = right_pad(copies)
    shown = torch.cat([mask.bool(), there], dim=1).to(target.device)
    held = [(layer.keys, layer.values, layer.positions) for layer in cache.layers]
    tokens, padding = cache.layers[0].seen, cache.layers[0].padding
    observer = _Observer(target, cache, shown, speckv, backend)
    positions = tokens + (torch.cat([mask, torch.ones_like(copied)], dim=1).cumsum(dim=1) - 1).clamp(min=0)
    before = torch.ones(len(shown), tokens, dtype=torch.long, device=target.device)
    with capture(target, observer), torch.no_grad():
        target.get_decoder()(
            input_ids=torch.cat([asked, copied], dim=1).to(target.device),
            attention_mask=torch.cat([before, shown.long()], dim=1),
            position_ids=positions.to(target.device),
            past_key_values=cache,
            use_cache=True,
        )
    for layer, (keys, values, kept), scores in zip(cache.layers, held, observer.scores, strict=True):
        assert kept is not None
        if scores is not None and keys.shape[2] > (speckv.max_capacity_prompt or 0):
            slots, kept = select_slots(scores, kept, observer.config)
            keys, values = (torch.take_along_dim(x, slots[..., None], dim=2) for x in (keys, values))
        layer.take(keys, values, kept, tokens, padding)


class _Observer:
    """Scores each layer's pairs of the context by the queries behind it, and hides what they may not see."""

    def __init__(
        self, target: PreTrainedModel, cache: PrunedCache, shown: Tensor, config: SpecKVConfig, backend: str | None
    ) -> None:
        implementation = base_attention(target)
        adaptive = config.adaptive and implementation in MASK_PER_HEAD
        self.config = config if adaptive else replace(config, head_budget="uniform")
        self.scores: list[Tensor | None] = [None] * len(cache.layers)
        self._cache = cache
        self._shown = shown
        self._backend = backend
        self._masks = DecodeMasks(cache, implementation, target) if cache.needs_masks else None

    def __call__(self, call: AttentionCall) -> Tensor | None:
        """Score one layer."""
        if not self._cache.layers[call.layer].is_sliding:
            self.scores[call.layer] = self._scored(call)
        return self._masks(call) if self._masks is not None else None

    def _scored(self, call: AttentionCall) -> Tensor:
        """[batch, KV heads, slots], 0 for an empty slot: all heads at once where they keep as many pairs, else each."""
        queries, keys = call.query.shape[2], call.key.shape[2]
        slots, group = keys - queries, call.query.shape[1] // call.key.shape[1]
        positions = self._cache.layers[call.layer].positions
        assert positions is not None
        found = call.query.new_zeros(call.key.shape[0], call.key.shape[1], slots, dtype=torch.float32)
        lengths = (positions[0, :, :slots] >= 0).sum(dim=1).tolist()
        together = len(lengths) if len(set(lengths)) == 1 else 1
        reduction: Literal["max", "sum"] = "max" if self.config.reduction_type == "max" else "sum"
        for head in range(0, len(lengths), together):
            own, heads = lengths[head], slice(head, head + together)
            query_heads = slice(head * group, (head + together) * group)
            seen = torch.ones(len(self._shown), own, dtype=torch.bool, device=self._shown.device)
            scores = window_scores(
                call.query[:, query_heads],
                call.key[:, heads, slots - own :],
                scaling=call.scaling,
                reduce_queries=reduction,
                reduce_heads="kv",
                head_reduction=reduction,
                query_mask=self._shown,
                key_mask=torch.cat([seen, self._shown], dim=1),
                softcap=call.softcap,
                sinks=None if call.sinks is None else call.sinks[query_heads],
                backend=self._backend,
            )
            found[:, heads, slots - own :] = scores[..., :own]
        return found
