"""gather_kv in Triton: a copy with one program per block of kept entries."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spec_rag_kernels.tiles import GATHER_TILES
from spec_rag_kernels.triton_common import unit_stride


@triton.jit  # type: ignore[untyped-decorator]
def gather_kernel(  # type: ignore[no-untyped-def]
    key,
    value,
    positions,
    key_out,
    value_out,
    kept,
    heads,
    key_batch_stride,
    key_head_stride,
    key_stride,
    value_batch_stride,
    value_head_stride,
    value_stride,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """key_out and value_out [batch, heads, kept, HEAD_DIM]; grid: blocks of kept entries, heads, batch."""
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    entries = tl.program_id(0) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    dims = tl.arange(0, BLOCK_DIM)
    valid = entries < kept
    mask = valid[:, None] & (dims[None, :] < HEAD_DIM)
    base = (batch * heads + head) * kept
    selected = tl.load(positions + base + entries, mask=valid, other=0)[:, None]
    key_base = key + batch * key_batch_stride + head * key_head_stride
    value_base = value + batch * value_batch_stride + head * value_head_stride
    target = (base + entries[:, None]) * HEAD_DIM + dims[None, :]
    loaded_key = tl.load(key_base + selected * key_stride + dims[None, :], mask=mask)
    loaded_value = tl.load(value_base + selected * value_stride + dims[None, :], mask=mask)
    tl.store(key_out + target, loaded_key, mask=mask)
    tl.store(value_out + target, loaded_value, mask=mask)


def gather_kv_triton(key: Tensor, value: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Key and value [b, kv, c, d]."""
    batch, heads, _, dim = key.shape
    kept = positions.shape[2]
    positions = positions.contiguous()
    key, value = unit_stride(key), unit_stride(value)
    key_out = torch.empty(batch, heads, kept, dim, dtype=key.dtype, device=key.device)
    value_out = torch.empty_like(key_out)
    if kept:
        gather_kernel[(triton.cdiv(kept, GATHER_TILES.keys), heads, batch)](
            key,
            value,
            positions,
            key_out,
            value_out,
            kept,
            heads,
            *key.stride()[:3],
            *value.stride()[:3],
            HEAD_DIM=dim,
            BLOCK_DIM=triton.next_power_of_2(dim),
            BLOCK_KEYS=GATHER_TILES.keys,
            num_warps=GATHER_TILES.warps,
            num_stages=GATHER_TILES.stages,
        )
    return key_out, value_out
