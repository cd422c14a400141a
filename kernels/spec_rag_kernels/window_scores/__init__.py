"""The reduced attention of a window of queries over all keys: the importance of SpecPC and SpecKV (arXiv 2506.08373,
3).

This room checks the arguments and picks the backend; the formula is in `naive.py`.
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
    own_key: Tensor | None = None,
    own_key_mask: Tensor | None = None,
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
    """Softmax the window's attention over all keys and reduce it over queries and, if asked, over heads.

    P[h, i, k] = softmax over k of softcap(query[h, i] . key[h // group, k] * scaling) under the mask; row i is
    multiplied by `query_weights[i]`, the rows of a head are reduced by `reduce_queries`, then the heads by
    `head_reduction`. The sum is not divided by anything. A row that sees no key, or does not count, gives
    zeros.

    Shapes, with b the batch, h query heads, kv KV heads (h a multiple), w queries, n keys, d the head dimension:
      query [b, h, w, d], key [b_k, kv, n, d] with b_k = b or 1 (one set of keys shared by the batch);
      float32, float16, bfloat16 (float64 in the torch paths), all of one dtype and device.
      own_key [b, kv, w', d]: keys of the queries' own that follow the n keys. They take part in the softmax and are
        cut off from the result. Without it, the window's keys are the last w of `key`.
      own_key_mask bool [b, w']: own keys that exist. By default the own keys of rows that `query_mask` leaves out are
        hidden too when w' = w, so questions of different lengths may be padded on either side.
      query_weights [w] or [b, w], not negative (checked on the CPU alone); query_mask bool [b, w]: the rows that count;
      key_mask bool [b_k, n]: the keys that exist (left padding);
      sinks [h]: one more logit per query head in the softmax's denominator, as in gpt-oss.
    Without own_key, query i stands at key position n - w + i and sees no later key; with own_key it sees all n keys and
    its own keys up to w' - w + i.
    sliding_window: the query at position p sees only keys k with p - k < sliding_window; not together with own_key.

    Returns float32 [b, h, n] for reduce_heads "none", [b, kv, n] for "kv" (over the query heads that share a KV head),
    [b, n] for "all". Working memory is O(h w + kv n), never h w n.

    Raises ValueError naming the argument for wrong shapes, dtypes, devices and values, BackendError (a ValueError)
    for a `backend` ("triton", "torch", "naive") that cannot run.
    """
    request = WindowScoresRequest(
        query=query,
        key=key,
        scaling=scaling,
        own_key=own_key,
        own_key_mask=own_key_mask,
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
