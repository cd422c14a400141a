"""Importance of the pairs of a context without a question: their attention while the target repeats the context.

See KVzip, arXiv 2505.23416.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from spec_rag_kernels import window_scores
from torch import Tensor

from spec_rag.attention.capture import AttentionCall, capture
from spec_rag.errors import UnsupportedModelError
from spec_rag.generation.pruned_cache import PrunedCache
from spec_rag.models.model_config import cache_option
from spec_rag.utils.cancellation import check

PIECE_TOKENS = 512
_OVERLAP_TOKENS = 8


def read_pieces(target: Any, ids: Tensor, cache: PrunedCache, cancelled: threading.Event | None) -> None:
    """Prefill the cache with the context in pieces of 512 tokens, which bounds the activations."""
    decoder = target.get_decoder()
    past = cache_option(decoder.forward, cache)
    for start in range(0, len(ids), PIECE_TOKENS):
        check(cancelled)
        piece = ids[start : start + PIECE_TOKENS].to(target.device)
        positions = torch.arange(start, start + len(piece), device=target.device)
        with torch.no_grad():
            decoder(input_ids=piece[None], position_ids=positions[None], use_cache=True, **past)


def repetition_scores(
    target: Any,
    cache: PrunedCache,
    repetition: tuple[Sequence[int], Tensor],
    cancelled: threading.Event | None,
    backend: str | None,
) -> list[Tensor]:
    """Per layer float32 [1, KV heads, tokens]: the attention of a repetition of the context to each of its pairs.

    Args:
        target: the model that has read the context.
        cache: of the context alone; unchanged afterwards.
        repetition: ids of the instruction before each piece, and int64 [tokens] of the text to repeat.
        cancelled: an event that ends it.
        backend: kernel backend.
    """
    instruction, repeated = repetition
    tokens = cache.get_seq_length()
    observer = _AttentionSum(tokens, len(cache.layers), backend)
    decoder = target.get_decoder()
    past = cache_option(decoder.forward, cache)
    for start in range(0, len(repeated), PIECE_TOKENS):
        check(cancelled)
        text = repeated[max(0, start - _OVERLAP_TOKENS) : start + PIECE_TOKENS]
        piece = torch.cat([torch.tensor(instruction, dtype=torch.long), text])
        positions = torch.arange(tokens, tokens + len(piece), device=target.device)
        with capture(target, observer), torch.no_grad():
            decoder(
                input_ids=piece[None].to(target.device),
                position_ids=positions[None],
                use_cache=True,
                **past,
            )
        for layer in cache.layers:
            layer.crop(-len(piece))
    totals = [scores for scores in observer.total if scores is not None]
    if len(totals) != len(cache.layers):
        raise UnsupportedModelError(
            f"{type(target).__name__} showed {len(totals)} of its {len(cache.layers)} layers to the attention "
            "interface: its cache cannot be pruned faithfully."
        )
    return totals


class _AttentionSum:
    """Observer of the repetition: attention to each pair, summed over queries, maximum over heads of a KV head."""

    def __init__(self, tokens: int, layers: int, backend: str | None) -> None:
        self.tokens = tokens
        self.backend = backend
        self.total: list[Tensor | None] = [None] * layers

    def __call__(self, call: AttentionCall) -> None:
        """Reduce one call of one layer."""
        if call.layer >= len(self.total):
            raise UnsupportedModelError(
                f"Layer {call.layer} shares the keys of another, which cannot be pruned on its own: choose a target "
                "whose every layer has its own keys."
            )
        scores = window_scores(
            call.query,
            call.key,
            scaling=call.scaling,
            reduce_queries="sum",
            reduce_heads="kv",
            head_reduction="max",
            softcap=call.softcap,
            sliding_window=call.sliding_window,
            sinks=call.sinks,
            backend=self.backend,
        )[:, :, : self.tokens]
        total = self.total[call.layer]
        self.total[call.layer] = scores if total is None else total + scores
