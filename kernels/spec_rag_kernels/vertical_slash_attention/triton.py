"""vertical_slash_attention on a GPU: flash attention over two lists of keys, the columns and the band.

A column counts in the first loop where it lies left of a row's band, and in the second where it lies inside, so each
key counts once without a table of what was seen. Each loop runs twice: over the blocks that all rows see whole, without
a mask, and over those at the edges. Logits are in powers of two, as the device computes them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spec_rag_kernels.triton_common import LOG2_E, as_bytes, launch_options, load_rows, multiply, soft_cap, unit_stride
from spec_rag_kernels.vertical_slash_attention.request import VerticalSlashRequest
from spec_rag_kernels.vertical_slash_attention.tiling import attention_tiles


@triton.jit  # type: ignore[untyped-decorator]
def _absorb(q, k, v, visible, top, total, mixed, scaling, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """One step of the running softmax over a block of keys; None for `visible` where every row sees all of them."""
    products = multiply(q, tl.trans(k), tl.zeros([q.shape[0], k.shape[0]], tl.float32), PRECISION)
    logits = soft_cap(products * scaling, SOFTCAP)
    if visible is not None:
        logits = tl.where(visible, logits, float("-inf"))
    new_top = tl.maximum(top, tl.max(logits, axis=1))
    shift = tl.where(new_top == float("-inf"), 0.0, new_top)
    probability = tl.exp2(logits - shift[:, None])
    shrink = tl.exp2(top - shift)
    total = total * shrink + tl.sum(probability, axis=1)
    if PRECISION != "ieee":
        probability = probability.to(v.dtype)
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
    column_all,
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
    blocks] say which of them lie left of some row's band and inside some row's sliding window, and `column_all` before
    which all lie left of every row's band. `slash` is the width of the band, no wider than the sliding window; `sinks`
    are in powers of two.
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
    block_index = list_index * tl.num_programs(0) + block
    column_base = columns + list_index * column_count
    first = tl.load(column_from + block_index)
    last = tl.load(column_to + block_index)
    # before here every row sees every column
    seen_by_all = first
    if key_mask is None and sliding_window is None:
        seen_by_all = first + (tl.load(column_all + block_index) - first) // BLOCK_KEYS * BLOCK_KEYS
    for masked in tl.static_range(2):
        for start in range(seen_by_all if masked else first, last if masked else seen_by_all, BLOCK_KEYS):
            entries = start + tl.arange(0, BLOCK_KEYS)
            if masked:
                exists = entries < last
                picked = tl.load(column_base + entries, mask=exists, other=0)
                if key_mask is not None:
                    exists = exists & (tl.load(key_mask + batch * tokens + picked, mask=exists, other=0) != 0)
                distance = positions[:, None] - picked[None, :]
                visible = exists[None, :] & (distance >= slash)
                if sliding_window is not None:
                    visible = visible & (distance < sliding_window)
            else:
                exists = None
                picked = tl.load(column_base + entries)
                visible = None
            k = load_rows(key_base, picked, key_stride, exists, HEAD_DIM, BLOCK_DIM)
            v = load_rows(value_base, picked, value_stride, exists, HEAD_DIM, BLOCK_DIM)
            top, total, mixed = _absorb(q, k, v, visible, top, total, mixed, scaling, SOFTCAP, PRECISION)

    # the band: from inner_from to inner_to every row sees every key, and blocks at both edges are masked
    first_row = block * BLOCK_ROWS
    band_from = tl.maximum(first_row - slash + 1, 0)
    band_to = tl.minimum(first_row + BLOCK_ROWS, tokens)
    left_blocks = tl.cdiv(tl.maximum(first_row + BLOCK_ROWS - slash, band_from) - band_from, BLOCK_KEYS)
    inner_from = band_from + left_blocks * BLOCK_KEYS
    inner_blocks = tl.maximum(first_row + 1 - inner_from, 0) // BLOCK_KEYS
    if key_mask is not None:
        inner_blocks = 0
    inner_to = inner_from + inner_blocks * BLOCK_KEYS
    edge_blocks = left_blocks + tl.cdiv(tl.maximum(band_to - inner_to, 0), BLOCK_KEYS)
    for masked in tl.static_range(2):
        for turn in range(edge_blocks if masked else inner_blocks):
            if masked:
                start = tl.where(turn < left_blocks, band_from, inner_to - left_blocks * BLOCK_KEYS) + turn * BLOCK_KEYS
                near = start + tl.arange(0, BLOCK_KEYS)
                exists = near < band_to
                if key_mask is not None:
                    exists = exists & (tl.load(key_mask + batch * tokens + near, mask=exists, other=0) != 0)
                distance = positions[:, None] - near[None, :]
                visible = exists[None, :] & (distance >= 0) & (distance < slash)
            else:
                near = inner_from + turn * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
                exists = None
                visible = None
            k = load_rows(key_base, near, key_stride, exists, HEAD_DIM, BLOCK_DIM)
            v = load_rows(value_base, near, value_stride, exists, HEAD_DIM, BLOCK_DIM)
            top, total, mixed = _absorb(q, k, v, visible, top, total, mixed, scaling, SOFTCAP, PRECISION)

    if sinks is not None:
        sink = tl.load(sinks + head)
        new_top = tl.maximum(top, sink)
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.exp2(sink - new_top)
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
    ranges = _column_ranges(r, slash, tiles.rows, blocks)
    out = torch.empty(batch, heads, tokens, dim, dtype=query.dtype, device=query.device)
    vertical_slash_kernel[(blocks, heads, batch)](
        query,
        key,
        value,
        r.sorted_columns.to(torch.int32),
        *ranges,
        None if r.sinks is None else r.sinks.float() * LOG2_E,
        as_bytes(r.key_mask),
        out,
        r.scaling * LOG2_E,
        slash,
        r.sliding_window,
        tokens,
        r.sorted_columns.shape[2],
        r.group,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        **launch_options(query, tiles, r.softcap),
    )
    return out


def _column_ranges(r: VerticalSlashRequest, slash: int, block_rows: int, blocks: int) -> tuple[Tensor, Tensor, Tensor]:
    """int32 [b, kv, blocks] each: from which to before which sorted column a block of queries looks, and before which
    all of its queries look past their bands.
    """
    batch, key_heads, _ = r.sorted_columns.shape
    first_query = torch.arange(blocks, device=r.sorted_columns.device) * block_rows
    last_query = (first_query + block_rows - 1).clamp_(max=r.query.shape[2] - 1)

    def columns_before(position: Tensor) -> Tensor:
        wanted = position.expand(batch, key_heads, blocks).contiguous()
        return torch.searchsorted(r.sorted_columns, wanted, out_int32=True)

    stop, seen_by_all = columns_before(last_query - slash + 1), columns_before(first_query - slash + 1)
    if r.sliding_window is None:
        return torch.zeros_like(stop), stop, seen_by_all
    return columns_before(first_query - r.sliding_window + 1), stop, seen_by_all
