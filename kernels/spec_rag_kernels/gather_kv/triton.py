"""gather_kv on a GPU: a copy with as many programs as there are blocks, or a move to the front in order.

The move keeps one program per head and slice of its dimensions, because what a block overwrites must have been read
by then: position i of an ascending list is at least i, so blocks taken in order never lose an entry that is still
wanted.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spec_rag_kernels.gather_kv.tiling import COPY_TILES, MOVE_DIMS, MOVE_TILES
from spec_rag_kernels.triton_common import unit_stride


@triton.jit  # type: ignore[untyped-decorator]
def copy_kernel(  # type: ignore[no-untyped-def]
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
    """key_out, value_out [batch, heads, kept, HEAD_DIM]; grid: blocks of kept entries, heads, batch."""
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    entries = tl.program_id(0) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    dims = tl.arange(0, BLOCK_DIM)
    exists = entries < kept
    mask = exists[:, None] & (dims[None, :] < HEAD_DIM)
    base = (batch * heads + head) * kept
    picked = tl.load(positions + base + entries, mask=exists, other=0)[:, None]
    key_base = key + batch * key_batch_stride + head * key_head_stride
    value_base = value + batch * value_batch_stride + head * value_head_stride
    target = (base + entries[:, None]) * HEAD_DIM + dims[None, :]
    moved_key = tl.load(key_base + picked * key_stride + dims[None, :], mask=mask)
    moved_value = tl.load(value_base + picked * value_stride + dims[None, :], mask=mask)
    tl.store(key_out + target, moved_key, mask=mask)
    tl.store(value_out + target, moved_value, mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def move_kernel(  # type: ignore[no-untyped-def]
    key, value, positions, kept, tokens, HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_KEYS: tl.constexpr
):
    """Move entries of key and value [batch x heads, tokens, HEAD_DIM] to the front; grid: slices of dims, batch x
    heads.
    """
    head = tl.program_id(1).to(tl.int64)
    dims = tl.program_id(0) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    base = head * tokens
    for start in range(0, kept, BLOCK_KEYS):
        entries = start + tl.arange(0, BLOCK_KEYS)
        exists = entries < kept
        mask = exists[:, None] & (dims[None, :] < HEAD_DIM)
        picked = tl.load(positions + head * kept + entries, mask=exists, other=0)
        source = (base + picked[:, None]) * HEAD_DIM + dims[None, :]
        target = (base + entries[:, None]) * HEAD_DIM + dims[None, :]
        moved_key = tl.load(key + source, mask=mask)
        moved_value = tl.load(value + source, mask=mask)
        # Inside a block a row that one warp writes may be one that another still has to read.
        tl.debug_barrier()
        tl.store(key + target, moved_key, mask=mask)
        tl.store(value + target, moved_value, mask=mask)


def gather_kv_triton(key: Tensor, value: Tensor, positions: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor]:
    """Key and value [batch, kv heads, c, dim]; with `in_place`, views of the given storage."""
    batch, heads, tokens, dim = key.shape
    kept = positions.shape[2]
    positions = positions.contiguous()
    if in_place:
        if kept:
            move_kernel[(triton.cdiv(dim, MOVE_DIMS), batch * heads)](
                key,
                value,
                positions,
                kept,
                tokens,
                HEAD_DIM=dim,
                BLOCK_DIM=MOVE_DIMS,
                BLOCK_KEYS=MOVE_TILES.keys,
                num_warps=MOVE_TILES.warps,
                num_stages=MOVE_TILES.stages,
            )
        return key[:, :, :kept], value[:, :, :kept]
    key, value = unit_stride(key), unit_stride(value)
    key_out = torch.empty(batch, heads, kept, dim, dtype=key.dtype, device=key.device)
    value_out = torch.empty_like(key_out)
    if kept:
        copy_kernel[(triton.cdiv(kept, COPY_TILES.keys), heads, batch)](
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
            BLOCK_KEYS=COPY_TILES.keys,
            num_warps=COPY_TILES.warps,
            num_stages=COPY_TILES.stages,
        )
    return key_out, value_out
