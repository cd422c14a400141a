"""Compact the kept keys and values of a layer, per KV head: what makes SpecKV's cache small (arXiv 2506.08373, 3.2).

This room checks the arguments and picks the backend. Which positions are kept is decided elsewhere.
"""

import torch
from torch import Tensor

from spec_rag_kernels.backend import choose_backend
from spec_rag_kernels.checks import check_device, check_dtype, check_shape

__all__ = ["gather_kv"]


def gather_kv(
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The keys and values at `positions`, per batch row and KV head.

    Shapes: key and value [batch, kv heads, n, dim] of any common dtype; positions int64 [batch, kv heads, c],
    ascending, none twice, none outside 0..n-1 (checked on the CPU alone: on a GPU the check would wait for the device).

    Returns key and value [batch, kv heads, c, dim].

    Raises ValueError naming the argument for wrong shapes, dtypes, devices and values, BackendError (a ValueError)
    for a `backend` ("triton", "torch", "naive") that cannot run.
    """
    check_shape("key", key, [None] * 4, "[batch, kv heads, tokens, dim]")
    check_shape("value", value, key.shape, "of key's shape")
    check_dtype("value", value, key.dtype)
    check_device("value", value, key.device)
    batch, heads, tokens, _ = key.shape
    if positions.ndim != 3 or positions.shape[:2] != (batch, heads):
        raise ValueError(f"positions has shape {tuple(positions.shape)}; it must be [{batch}, {heads}, kept]")
    check_dtype("positions", positions, torch.int64)
    check_device("positions", positions, key.device)
    if positions.device.type == "cpu" and positions.numel():
        if int(positions.min()) < 0 or int(positions.max()) >= tokens:
            raise ValueError(f"positions has entries outside 0..{tokens - 1}")
        if bool((positions.diff(dim=-1) <= 0).any()):
            raise ValueError("positions must be ascending without repeats in each KV head")
    chosen = choose_backend("gather_kv", backend, {"key": key, "value": value, "positions": positions})
    with torch.no_grad():
        if chosen == "triton":
            from spec_rag_kernels.gather_kv.triton import gather_kv_triton

            return gather_kv_triton(key, value, positions)
        if chosen == "naive":
            from spec_rag_kernels.gather_kv.naive import gather_kv_naive

            return gather_kv_naive(key, value, positions)
        from spec_rag_kernels.gather_kv.chunked import gather_kv_chunked

        return gather_kv_chunked(key, value, positions)
