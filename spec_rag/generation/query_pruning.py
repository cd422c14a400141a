"""Pruning of a cached context for one question.

The target reads the question, and pieces of the context that repeat its words, after the context. Their attention
selects the pairs that the answer uses, with SpecKV's scores and selection (paper, section 4.1). The context itself is
not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from spec_rag_kernels import window_scores
from torch import Tensor

from spec_rag.attention.capture import AttentionCall, base_attention, capture
from spec_rag.attention.token_selection import select_slots
from spec_rag.generation.prompt_lookup import copied_from_prompt
from spec_rag.generation.pruned_cache import MASK_PER_HEAD, DecodeMasks, PrunedCache
from spec_rag.generation.request import GenerationRequest
from spec_rag.models.model_config import cache_option
from spec_rag.options.compression import SpecKVConfig
from spec_rag.text.tokenization import left_pad, right_pad


def exceeds_capacity(cache: PrunedCache, speckv: SpecKVConfig | None) -> bool:
    """Whether a layer holds more pairs of the context than one question may use."""
    if speckv is None or speckv.max_capacity_prompt is None:
        return False
    capacity = speckv.max_capacity_prompt
    return any(not layer.is_sliding and layer.keys.shape[2] > capacity for layer in cache.layers)


def prune_for_query(request: GenerationRequest, cache: PrunedCache, questions: Sequence[Tensor]) -> None:
    """Cut the cache of a context to at most `max_capacity_prompt` pairs per KV head, for each question separately.

    Args:
        request: the job, with `context` and `speckv`; without a look-ahead only the question observes.
        cache: the result of `ContextCache.start`, one row per question.
        questions: int64 [tokens] each.
    """
    target, speckv, context = request.target, request.speckv, request.context
    assert speckv is not None
    assert context is not None
    pieces = speckv.copied_pieces_for("none" if speckv.lookahead == "none" else "copies")
    copies = [copied_from_prompt(torch.cat([context.ids.cpu(), ids.cpu()]), pieces) for ids in questions]
    question_ids, mask = left_pad(list(questions), 0)
    copied, copied_mask = right_pad(copies)
    observing = torch.cat([mask.bool(), copied_mask], dim=1).to(target.device)
    before = [(layer.keys, layer.values, layer.positions) for layer in cache.layers]
    tokens, padding = cache.layers[0].logical_tokens, cache.layers[0].padding
    observer = _Observer(request, cache, observing)
    positions = tokens + (torch.cat([mask, torch.ones_like(copied)], dim=1).cumsum(dim=1) - 1).clamp(min=0)
    context_mask = torch.ones(len(observing), tokens, dtype=torch.long, device=target.device)
    with capture(target, observer), torch.no_grad():
        decoder = target.get_decoder()
        decoder(
            input_ids=torch.cat([question_ids, copied], dim=1).to(target.device),
            attention_mask=torch.cat([context_mask, observing.long()], dim=1),
            position_ids=positions.to(target.device),
            **cache_option(decoder.forward, cache),
            use_cache=True,
        )
    for layer, (keys, values, kept), scores in zip(cache.layers, before, observer.scores, strict=True):
        assert kept is not None
        if scores is not None and keys.shape[2] > (speckv.max_capacity_prompt or 0):
            slots, kept = select_slots(scores, kept, observer.config)
            keys, values = (torch.take_along_dim(x, slots[..., None], dim=2) for x in (keys, values))
        layer.load(keys, values, kept, tokens, padding)


class _Observer:
    """Scores each layer's pairs of the context by the queries after it, and masks pairs that these must not use.

    Args:
        request: the job.
        cache: of the context, one row per question.
        observing: bool [rows, queries], False for padding.
    """

    def __init__(self, request: GenerationRequest, cache: PrunedCache, observing: Tensor) -> None:
        config, implementation = request.speckv, base_attention(request.target)
        assert config is not None
        adaptive = config.adaptive and implementation in MASK_PER_HEAD
        self.config = config if adaptive else replace(config, head_budget="uniform")
        self.scores: list[Tensor | None] = [None] * len(cache.layers)
        self._cache = cache
        self._observing = observing
        self._backend = request.backend
        self._masks = DecodeMasks(cache, implementation, request.target) if cache.needs_masks else None

    def __call__(self, call: AttentionCall) -> Tensor | None:
        """Score one layer."""
        if not self._cache.layers[call.layer].is_sliding:
            self.scores[call.layer] = self._scores_of(call)
        return self._masks(call) if self._masks is not None else None

    def _scores_of(self, call: AttentionCall) -> Tensor:
        """[batch, KV heads, slots], 0 for an empty slot; one kernel call for all heads if they keep equally many."""
        queries, keys = call.query.shape[2], call.key.shape[2]
        slots, group = keys - queries, call.query.shape[1] // call.key.shape[1]
        positions = self._cache.layers[call.layer].positions
        assert positions is not None
        all_scores = call.query.new_zeros(call.key.shape[0], call.key.shape[1], slots, dtype=torch.float32)
        lengths = (positions[0, :, :slots] >= 0).sum(dim=1).tolist()
        together = len(lengths) if len(set(lengths)) == 1 else 1
        reduction: Literal["max", "sum"] = "max" if self.config.reduction_type == "max" else "sum"
        for head in range(0, len(lengths), together):
            length, heads = lengths[head], slice(head, head + together)
            query_heads = slice(head * group, (head + together) * group)
            context_mask = torch.ones(len(self._observing), length, dtype=torch.bool, device=self._observing.device)
            scores = window_scores(
                call.query[:, query_heads],
                call.key[:, heads, slots - length :],
                scaling=call.scaling,
                reduce_queries=reduction,
                reduce_heads="kv",
                head_reduction=reduction,
                query_mask=self._observing,
                key_mask=torch.cat([context_mask, self._observing], dim=1),
                softcap=call.softcap,
                sinks=None if call.sinks is None else call.sinks[query_heads],
                backend=self._backend,
            )
            all_scores[:, heads, slots - length :] = scores[..., :length]
        return all_scores
