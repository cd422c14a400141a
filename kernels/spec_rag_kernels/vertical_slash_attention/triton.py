"""vertical_slash_attention on a GPU: flash attention over two lists of keys, the columns and the band.

A column counts in the first loop where it lies left of a row's band, and in the second where it lies inside, so each
key counts once without a table of what was seen.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spec_rag_kernels.tiles import dot_size
from spec_rag_kernels.triton_common import as_bytes, dot_precision, load_rows, multiply, soft_cap, unit_stride
from spec_rag_kernels.vertical_slash_attention.request import VerticalSlashRequest
from spec_rag_kernels.vertical_slash_attention.tiling import attention_tiles


@triton.jit  # type: ignore[untyped-decorator]
def _absorb(q, k, v, visible, top, total, mixed, scaling, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """One step of the running softmax over a block of keys."""
    logits = multiply(q, tl.trans(k), tl.zeros(visible.shape, tl.float32), PRECISION)
    logits = tl.where(visible, soft_cap(logits * scaling, SOFTCAP), float("-inf"))
    new_top = tl.maximum(top, tl.max(logits, axis=1))
    shift = tl.where(new_top == float("-inf"), 0.0, new_top)
    probability = tl.exp(logits - shift[:, None])
    if PRECISION != "ieee":
        probability = probability.to(v.dtype)
    # The sum takes the rounded probabilities as well, so that their rounding does not pull the average down.
    shrink = tl.exp(top - shift)
    total = total * shrink + tl.sum(probability.to(tl.float32), axis=1)
    mixed = multiply(probability, v, mixed * shrink[:, None], PRECISION)
    return new_top, total, mixed


@triton.jit  # type: ignore[untyped-decorator]
def vertical_slash_kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    columns,
    column_from,
    column_to,
    sinks,
    key_mask,
    out,
    scaling,
    slash,
    sliding_window,
    tokens,
    column_count,
    group,
    query_batch_stride,
    query_head_stride,
    query_stride,
    key_batch_stride,
    key_head_stride,
    key_stride,
    value_batch_stride,
    value_head_stride,
    value_stride,
    SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """out[batch, head, query]; grid: blocks of queries, heads, batch.

    `columns` int32 [batch, KV heads, column_count] ascending; `column_from` and `column_to` int32 [batch, KV heads,
    blocks] say which of them lie left of some row's band and inside some row's sliding window. `slash` is the width
    of the band, no wider than the sliding window.
    """
    block = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    key_head = head // group
    key_heads = tl.num_programs(1) // group
    positions = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_exists = positions < tokens

    q = load_rows(
        query + batch * query_batch_stride + head * query_head_stride,
        positions,
        query_stride,
        row_exists,
        HEAD_DIM,
        BLOCK_DIM,
    )
    key_base = key + batch * key_batch_stride + key_head * key_head_stride
    value_base = value + batch * value_batch_stride + key_head * value_head_stride
    top = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    mixed = tl.zeros([BLOCK_ROWS, BLOCK_DIM], tl.float32)

    list_index = batch * key_heads + key_head
    column_base = columns + list_index * column_count
    first = tl.load(column_from + list_index * tl.num_programs(0) + block)
    last = tl.load(column_to + list_index * tl.num_programs(0) + block)
    for start in range(first, last, BLOCK_KEYS):
        entries = start + tl.arange(0, BLOCK_KEYS)
        exists = entries < last
        picked = tl.load(column_base + entries, mask=exists, other=0)
        if key_mask is not None:
            exists = exists & (tl.load(key_mask + batch * tokens + picked, mask=exists, other=0) != 0)
        k = load_rows(key_base, picked, key_stride, exists, HEAD_DIM, BLOCK_DIM)
        v = load_rows(value_base, picked, value_stride, exists, HEAD_DIM, BLOCK_DIM)
        distance = positions[:, None] - picked[None, :]
        visible = exists[None, :] & (distance >= slash)
        if sliding_window is not None:
            visible = visible & (distance < sliding_window)
        top, total, mixed = _absorb(q, k, v, visible, top, total, mixed, scaling, SOFTCAP, PRECISION)

    band_from = tl.maximum(block * BLOCK_ROWS - slash + 1, 0)
    band_to = tl.minimum(block * BLOCK_ROWS + BLOCK_ROWS, tokens)
    for start in range(band_from, band_to, BLOCK_KEYS):
        near = start + tl.arange(0, BLOCK_KEYS)
        exists = near < band_to
        if key_mask is not None:
            exists = exists & (tl.load(key_mask + batch * tokens + near, mask=exists, other=0) != 0)
        k = load_rows(key_base, near, key_stride, exists, HEAD_DIM, BLOCK_DIM)
        v = load_rows(value_base, near, value_stride, exists, HEAD_DIM, BLOCK_DIM)
        distance = positions[:, None] - near[None, :]
        visible = exists[None, :] & (distance >= 0) & (distance < slash)
        top, total, mixed = _absorb(q, k, v, visible, top, total, mixed, scaling, SOFTCAP, PRECISION)

    if sinks is not None:
        sink = tl.load(sinks + head).to(tl.float32)
        new_top = tl.maximum(top, sink)
        shrink = tl.exp(top - new_top)
        total = total * shrink + tl.exp(sink - new_top)
        mixed = mixed * shrink[:, None]
    mixed = mixed / tl.where(total > 0.0, total, 1.0)[:, None]

    dims = tl.arange(0, BLOCK_DIM)
    target = out + ((batch * tl.num_programs(1) + head) * tokens + positions[:, None]) * HEAD_DIM + dims[None, :]
    tl.store(target, mixed.to(out.dtype.element_ty), mask=row_exists[:, None] & (dims[None, :] < HEAD_DIM))


def vertical_slash_attention_triton(request: VerticalSlashRequest) -> Tensor:
    """[b, h, n, d] in query's dtype."""
    r = request
    query, key, value = unit_stride(r.query), unit_stride(r.key), unit_stride(r.value)
    batch, heads, tokens, dim = query.shape
    tiles = attention_tiles(query.dtype, dim).clipped(tokens, tokens)
    slash = r.band if r.sliding_window is None else min(r.band, r.sliding_window)
    blocks = triton.cdiv(tokens, tiles.rows)
    column_from, column_to = _column_ranges(r, slash, tiles.rows, blocks)
    out = torch.empty(batch, heads, tokens, dim, dtype=query.dtype, device=query.device)
    vertical_slash_kernel[(blocks, heads, batch)](
        query,
        key,
        value,
        r.sorted_columns.to(torch.int32),
        column_from,
        column_to,
        None if r.sinks is None else r.sinks.contiguous(),
        as_bytes(r.key_mask),
        out,
        r.scaling,
        slash,
        r.sliding_window,
        tokens,
        r.sorted_columns.shape[2],
        r.group,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        SOFTCAP=r.softcap,
        PRECISION=dot_precision(query),
        HEAD_DIM=dim,
        BLOCK_DIM=dot_size(dim),
        BLOCK_ROWS=tiles.rows,
        BLOCK_KEYS=tiles.keys,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return out


def _column_ranges(r: VerticalSlashRequest, slash: int, block_rows: int, blocks: int) -> tuple[Tensor, Tensor]:
    """int32 [b, kv, blocks] each: from which to before which sorted column a block of queries looks."""
    batch, key_heads, _ = r.sorted_columns.shape
    first_query = torch.arange(blocks, device=r.sorted_columns.device) * block_rows
    last_query = (first_query + block_rows - 1).clamp_(max=r.query.shape[2] - 1)

    def columns_before(position: Tensor) -> Tensor:
        wanted = position.expand(batch, key_heads, blocks).contiguous()
        return torch.searchsorted(r.sorted_columns, wanted, out_int32=True)

    stop = columns_before(last_query - slash + 1)
    if r.sliding_window is None:
        return torch.zeros_like(stop), stop
    return columns_before(first_query - r.sliding_window + 1), stop
