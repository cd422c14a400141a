"""window_scores on a GPU: what the kernels are launched with."""

import torch
import triton
from torch import Tensor

from spec_rag_kernels.triton_common import LOG2_E, as_bytes, launch_options, unit_stride
from spec_rag_kernels.window_scores.request import WindowScoresRequest
from spec_rag_kernels.window_scores.tiling import key_ranges, logsumexp_tiles, reduce_tiles
from spec_rag_kernels.window_scores.triton_kernels import (
    reduced_probabilities_kernel,
    row_logsumexp_kernel,
    row_offset_kernel,
)


def window_scores_triton(request: WindowScoresRequest) -> Tensor:
    """[b, h, n], [b, kv, n] or [b, n] in float32; working memory b x h x w x ranges floats beside the result."""
    r = request
    query, key = unit_stride(r.query), unit_stride(r.key)
    reduced = _reduced(r, query, key, _row_logsumexp(r, query, key))
    if r.reduce_heads != "all":
        return reduced
    return reduced.amax(1) if r.head_reduction == "max" else reduced.sum(1)


def _row_logsumexp(r: WindowScoresRequest, query: Tensor, key: Tensor) -> Tensor:
    """float32 [ranges, b, h, w] in powers of two, -inf where a row sees nothing."""
    batch, heads, window, dim = query.shape
    key_heads, keys = key.shape[1:3]
    tiles = logsumexp_tiles(query.dtype, dim).clipped(r.group * window, keys)
    row_blocks = triton.cdiv(r.group * window, tiles.rows)
    ranges, range_keys = key_ranges(keys, row_blocks * batch * key_heads, tiles)
    partial = query.new_empty(ranges, batch, heads, window, dtype=torch.float32)
    own = None if r.own_key is None else unit_stride(r.own_key)
    row_logsumexp_kernel[(row_blocks, ranges, batch * key_heads)](
        query,
        key,
        own,
        as_bytes(r.key_mask),
        as_bytes(r.seen_own_keys),
        partial,
        r.scaling * LOG2_E,
        r.sliding_window,
        keys,
        0 if own is None else own.shape[2],
        window,
        r.group,
        key_heads,
        range_keys,
        *query.stride()[:3],
        *_shared_strides(key),
        *((0, 0, 0) if own is None else own.stride()[:3]),
        0 if key.shape[0] == 1 else keys,
        **launch_options(query, tiles, r.softcap),
    )
    return partial


def _row_offset(r: WindowScoresRequest, partial: Tensor, block_rows: int) -> Tensor:
    """float32 [b, h, w] in powers of two, w in whole blocks: what to subtract from a row's logits."""
    ranges, batch, heads, window = partial.shape
    blocks = triton.cdiv(window, block_rows)
    offset = partial.new_empty(batch, heads, blocks * block_rows)
    row_offset_kernel[(blocks, batch * heads)](
        partial,
        None if r.sinks is None else r.sinks.float() * LOG2_E,
        None if r.row_weights is None else r.row_weights.contiguous(),
        offset,
        ranges,
        heads,
        window,
        BLOCK_RANGES=triton.next_power_of_2(ranges),
        BLOCK_ROWS=block_rows,
        num_warps=4,
    )
    return offset


def _reduced(r: WindowScoresRequest, query: Tensor, key: Tensor, partial: Tensor) -> Tensor:
    """float32 [b, h, n] or [b, kv, n]."""
    batch, heads, window, dim = query.shape
    key_heads, keys = key.shape[1:3]
    per_head = r.reduce_heads == "none"
    tiles = reduce_tiles(query.dtype, dim).clipped(window, keys)
    out = query.new_empty(batch, heads if per_head else key_heads, keys, dtype=torch.float32)
    reduced_probabilities_kernel[(triton.cdiv(keys, tiles.keys), key_heads, batch)](
        query,
        key,
        as_bytes(r.key_mask),
        _row_offset(r, partial, tiles.rows),
        out,
        r.scaling * LOG2_E,
        r.sliding_window,
        keys,
        window,
        r.group,
        key_heads,
        *query.stride()[:3],
        *_shared_strides(key),
        0 if key.shape[0] == 1 else keys,
        CAUSAL=r.own_key is None,
        SUM_QUERIES=r.reduce_queries == "sum",
        SUM_HEADS=r.head_reduction == "sum",
        PER_HEAD=per_head,
        **launch_options(query, tiles, r.softcap),
    )
    return out


def _shared_strides(key: Tensor) -> tuple[int, int, int]:
    """Batch, head and token strides; one set of keys serves every batch row."""
    batch_stride, head_stride, stride = key.stride()[:3]
    return (0 if key.shape[0] == 1 else batch_stride), head_stride, stride
