"""Compaction of a layer's kept keys and values per KV head, SpecKV's cache pruning (arXiv 2506.08373, 3.2)."""

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
    """Gather the keys and values at `positions`, per batch row and KV head.

    Args:
        key: [b, kv, n, d], with b the batch size, kv KV heads, n tokens and d the head dimension.
        value: as key, of the same dtype and device.
        positions: int64 [b, kv, c], strictly ascending and in [0, n) (validated on the CPU only).
        backend: "triton", "torch" or "naive"; None selects by device.

    Returns:
        Key and value [b, kv, c, d], new tensors.

    Raises:
        ValueError: a shape, dtype, device or value is invalid; the message names the argument.
        BackendError: the backend is unknown or cannot run (a ValueError).
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
    # On a GPU the check would synchronize with the device.
    if positions.device.type == "cpu" and positions.numel():
        first, last = int(positions.min()), int(positions.max())
        if first < 0 or last >= tokens:
            raise ValueError(f"positions has entries from {first} to {last}; they must be in [0, {tokens})")
        if bool((positions.diff(dim=-1) <= 0).any()):
            raise ValueError("positions must be strictly ascending in each KV head")
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
