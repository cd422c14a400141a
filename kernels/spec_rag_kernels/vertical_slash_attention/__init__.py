"""Sparse causal attention of SpecKV's prefill: selected columns and a local band per query (arXiv 2506.08373, 3.2).

The reference formula is in `naive.py`.
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
    """Causal attention in which query i attends to the keys k <= i that are in `columns` or have k > i - slash.

    Time is O(n (v + slash)), and no n x n tensor is allocated.

    Args:
        query: [b, h, n, d] with b the batch size, h query heads, n tokens and d the head dimension; float32, float16
            or bfloat16 (the torch paths also support float64).
        key: [b, kv, n, d] with kv KV heads, a divisor of h; query's dtype and device.
        value: as key.
        columns: int64 [b, kv, v], the selected positions per KV head, in any order; unique and in [0, n) (validated on
            the CPU only). v may be 0.
        slash: width of the band, at least 1.
        scaling: factor of the logits.
        softcap: c in c * tanh(logit / c).
        sliding_window: query i attends to keys k with i - k < sliding_window only, in columns and band.
        sinks: [h], one extra logit per query head in the softmax denominator.
        key_mask: bool [b, n], False for padding.
        backend: "triton", "torch" or "naive"; None selects by device.

    Returns:
        [b, h, n, d] in query's dtype; zeros for queries that attend to no key (left padding).

    Raises:
        ValueError: a shape, dtype, device or value is invalid; the message names the argument.
        BackendError: the backend is unknown or cannot run (a ValueError).
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
