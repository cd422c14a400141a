"""Attention of a query window, reduced to one score per key: the importance of SpecPC and SpecKV (arXiv 2506.08373, 3).

The reference formula is in `naive.py`.
"""

import torch
from torch import Tensor

from spec_rag_kernels.backend import choose_backend
from spec_rag_kernels.window_scores.request import ReduceHeads, Reduction, WindowScoresRequest

__all__ = ["window_scores"]


def window_scores(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    reduce_queries: Reduction = "max",
    reduce_heads: ReduceHeads = "none",
    head_reduction: Reduction = "max",
    query_weights: Tensor | None = None,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    sinks: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Causal attention probabilities of the last queries, reduced over queries and optionally over heads.

    P[h, i, k] = softmax over k of softcap(query[h, i] . key[h // group, k] * scaling) under the mask. Row i is
    multiplied by `query_weights[i]`, the rows of a head are reduced by `reduce_queries`, then the heads by
    `head_reduction`. Sums are not normalized. A masked row, and a row that attends to no key, contributes zeros.

    Args:
        query: [b, h, w, d] with b the batch size, h query heads, w queries and d the head dimension; float32, float16
            or bfloat16 (the torch paths also support float64).
        key: [b, kv, n, d] with kv KV heads, a divisor of h, and n keys; query's dtype and device. The last w keys are
            the window's own: query i has position n - w + i and attends to no later key.
        scaling: factor of the logits.
        reduce_queries: "max" or "sum" over the window.
        reduce_heads: "none", "kv" (over the query heads of each KV head) or "all".
        head_reduction: "max" or "sum" over heads.
        query_weights: [w] or [b, w], non-negative (validated on the CPU only).
        query_mask: bool [b, w], False for rows to exclude.
        key_mask: bool [b, n], False for padding.
        softcap: c in c * tanh(logit / c).
        sliding_window: the query at position p attends to keys k with p - k < sliding_window only.
        sinks: [h], one extra logit per query head in the softmax denominator, as in gpt-oss.
        backend: "triton", "torch" or "naive"; None selects by device.

    Returns:
        float32 [b, h, n] for reduce_heads "none", [b, kv, n] for "kv", [b, n] for "all". Working memory is
        O(h w + kv n), not O(h w n).

    Raises:
        ValueError: a shape, dtype, device or value is invalid; the message names the argument.
        BackendError: the backend is unknown or cannot run (a ValueError).
    """
    request = WindowScoresRequest(
        query=query,
        key=key,
        scaling=scaling,
        reduce_queries=reduce_queries,
        reduce_heads=reduce_heads,
        head_reduction=head_reduction,
        query_weights=query_weights,
        query_mask=query_mask,
        key_mask=key_mask,
        softcap=softcap,
        sliding_window=sliding_window,
        sinks=sinks,
    )
    chosen = choose_backend("window_scores", backend, {"query": query, "key": key})
    with torch.no_grad():
        if chosen == "triton":
            from spec_rag_kernels.window_scores.triton import window_scores_triton

            return window_scores_triton(request)
        if chosen == "naive":
            from spec_rag_kernels.window_scores.naive import window_scores_naive

            return window_scores_naive(request).float()
        from spec_rag_kernels.window_scores.chunked import window_scores_chunked

        return window_scores_chunked(request).float()
