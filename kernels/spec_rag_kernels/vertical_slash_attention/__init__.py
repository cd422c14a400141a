"""The sparse prefill of SpecKV: every query sees the best columns of its KV head and a local band (arXiv 2506.08373,
3.2).

This room checks the arguments and picks the backend; the formula is in `naive.py`. Which columns are best is decided
elsewhere.
"""

import torch
from torch import Tensor

from spec_rag_kernels.backend import choose_backend
from spec_rag_kernels.vertical_slash_attention.request import VerticalSlashRequest

__all__ = ["vertical_slash_attention"]


def vertical_slash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    columns: Tensor,
    slash: int,
    scaling: float,
    softcap: float | None = None,
    sliding_window: int | None = None,
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Causal attention in which query i sees the keys k <= i that are in `columns` or have k > i - slash, each once.

    Shapes, with b the batch, h query heads, kv KV heads (h a multiple), n tokens, v columns, d the head dimension:
      query [b, h, n, d], key and value [b, kv, n, d]; float32, float16, bfloat16 (float64 in the torch paths), all
        of one dtype and device.
      columns int64 [b, kv, v]: positions per KV head, in any order, none twice and none outside 0..n-1 (checked on
        the CPU alone, where it costs nothing; on a GPU it would wait for the device). v may be 0.
      slash: the width of the band, at least 1.
      sinks [h]: one more logit per query head in the softmax's denominator; key_mask bool [b, n]: the keys that exist.
    sliding_window: query i sees only keys k with i - k < sliding_window, columns and band alike.

    Returns [b, h, n, d] in query's dtype. A query that sees no key (left padding) gives zeros. The work is
    proportional to n (v + slash) and no n x n tensor is made.

    Raises ValueError naming the argument for wrong shapes, dtypes, devices and values, BackendError (a ValueError)
    for a `backend` ("triton", "torch", "naive") that cannot run.
    """
    request = VerticalSlashRequest(
        query=query,
        key=key,
        value=value,
        columns=columns,
        slash=slash,
        scaling=scaling,
        softcap=softcap,
        sliding_window=sliding_window,
        sinks=sinks,
        key_mask=key_mask,
    )
    chosen = choose_backend("vertical_slash_attention", backend, {"query": query, "key": key, "value": value})
    with torch.no_grad():
        if chosen == "triton":
            from spec_rag_kernels.vertical_slash_attention.triton import vertical_slash_attention_triton

            return vertical_slash_attention_triton(request)
        if chosen == "naive":
            from spec_rag_kernels.vertical_slash_attention.naive import vertical_slash_attention_naive

            return vertical_slash_attention_naive(request)
        from spec_rag_kernels.vertical_slash_attention.chunked import vertical_slash_attention_chunked

        return vertical_slash_attention_chunked(request)
