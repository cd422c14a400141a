"""vertical_slash_attention in Triton: flash attention over the columns, then over the band.

The first loop covers the columns left of a row's band, the second the band itself, so that a column inside the band
counts once. Each loop runs twice: without a mask over key blocks that all rows see entirely, with a mask over the edge
blocks. Logits are exponents of 2.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spec_rag_kernels.tiles import attention_tiles
from spec_rag_kernels.triton_common import LOG2_E, as_bytes, launch_options, load_rows, multiply, soft_cap, unit_stride
from spec_rag_kernels.vertical_slash_attention.request import VerticalSlashRequest


@triton.jit  # type: ignore[untyped-decorator]
def _update(q, k, v, visible, row_max, total, output, scaling, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """One online-softmax step over a block of keys; `visible` is None if all rows see all keys of the block."""
    products = multiply(q, tl.trans(k), tl.zeros([q.shape[0], k.shape[0]], tl.float32), PRECISION)
    logits = soft_cap(products * scaling, SOFTCAP)
    if visible is not None:
        logits = tl.where(visible, logits, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(logits, axis=1))
    shift = tl.where(new_max == float("-inf"), 0.0, new_max)
    probability = tl.exp2(logits - shift[:, None])
    rescale = tl.exp2(row_max - shift)
    total = total * rescale + tl.sum(probability, axis=1)
    if PRECISION != "ieee":
        probability = probability.to(v.dtype)
    output = multiply(probability, v, output * rescale[:, None], PRECISION)
    return new_max, total, output


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
    """out[batch, head, query]; grid: query blocks, heads, batch.

    `columns` is int32 [batch, KV heads, column_count], ascending. `column_from`, `column_to` and `column_all` are int32
    [batch, KV heads, blocks]. The columns [column_from, column_to) are left of at least one row's band and inside at
    least one row's sliding window; those before column_all are left of all rows' bands. `slash` is the width of the
    band, at most the sliding window; `sinks` are exponents of 2.
    """
    block = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    key_head = head // group
    key_heads = tl.num_programs(1) // group
    positions = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_valid = positions < tokens

    q = load_rows(
        query + batch * query_batch_stride + head * query_head_stride,
        positions,
        query_stride,
        row_valid,
        HEAD_DIM,
        BLOCK_DIM,
    )
    key_base = key + batch * key_batch_stride + key_head * key_head_stride
    value_base = value + batch * value_batch_stride + key_head * value_head_stride
    row_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    output = tl.zeros([BLOCK_ROWS, BLOCK_DIM], tl.float32)

    list_index = batch * key_heads + key_head
    block_index = list_index * tl.num_programs(0) + block
    column_base = columns + list_index * column_count
    first = tl.load(column_from + block_index)
    last = tl.load(column_to + block_index)
    # All rows see all columns in [first, unmasked_stop).
    unmasked_stop = first
    if key_mask is None and sliding_window is None:
        unmasked_stop = first + (tl.load(column_all + block_index) - first) // BLOCK_KEYS * BLOCK_KEYS
    for masked in tl.static_range(2):
        for start in range(unmasked_stop if masked else first, last if masked else unmasked_stop, BLOCK_KEYS):
            indices = start + tl.arange(0, BLOCK_KEYS)
            if masked:
                valid = indices < last
                selected = tl.load(column_base + indices, mask=valid, other=0)
                if key_mask is not None:
                    valid = valid & (tl.load(key_mask + batch * tokens + selected, mask=valid, other=0) != 0)
                distance = positions[:, None] - selected[None, :]
                visible = valid[None, :] & (distance >= slash)
                if sliding_window is not None:
                    visible = visible & (distance < sliding_window)
            else:
                valid = None
                selected = tl.load(column_base + indices)
                visible = None
            k = load_rows(key_base, selected, key_stride, valid, HEAD_DIM, BLOCK_DIM)
            v = load_rows(value_base, selected, value_stride, valid, HEAD_DIM, BLOCK_DIM)
            row_max, total, output = _update(q, k, v, visible, row_max, total, output, scaling, SOFTCAP, PRECISION)

    # The band: all rows see all keys in [inner_from, inner_to); the blocks at both edges are masked.
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
                band_keys = start + tl.arange(0, BLOCK_KEYS)
                valid = band_keys < band_to
                if key_mask is not None:
                    valid = valid & (tl.load(key_mask + batch * tokens + band_keys, mask=valid, other=0) != 0)
                distance = positions[:, None] - band_keys[None, :]
                visible = valid[None, :] & (distance >= 0) & (distance < slash)
            else:
                band_keys = inner_from + turn * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
                valid = None
                visible = None
            k = load_rows(key_base, band_keys, key_stride, valid, HEAD_DIM, BLOCK_DIM)
            v = load_rows(value_base, band_keys, value_stride, valid, HEAD_DIM, BLOCK_DIM)
            row_max, total, output = _update(q, k, v, visible, row_max, total, output, scaling, SOFTCAP, PRECISION)

    if sinks is not None:
        sink = tl.load(sinks + head)
        new_max = tl.maximum(row_max, sink)
        rescale = tl.exp2(row_max - new_max)
        total = total * rescale + tl.exp2(sink - new_max)
        output = output * rescale[:, None]
    output = output / tl.where(total > 0.0, total, 1.0)[:, None]

    dims = tl.arange(0, BLOCK_DIM)
    target = out + ((batch * tl.num_programs(1) + head) * tokens + positions[:, None]) * HEAD_DIM + dims[None, :]
    tl.store(target, output.to(out.dtype.element_ty), mask=row_valid[:, None] & (dims[None, :] < HEAD_DIM))


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
    """First, stop and all-visible index into the sorted columns per query block, int32 [b, kv, blocks] each.

    The columns before the all-visible index are left of the bands of all queries of the block.
    """
    batch, key_heads, _ = r.sorted_columns.shape
    first_query = torch.arange(blocks, device=r.sorted_columns.device) * block_rows
    last_query = (first_query + block_rows - 1).clamp_(max=r.query.shape[2] - 1)

    def columns_before(position: Tensor) -> Tensor:
        positions = position.expand(batch, key_heads, blocks).contiguous()
        return torch.searchsorted(r.sorted_columns, positions, out_int32=True)

    stop, all_visible = columns_before(last_query - slash + 1), columns_before(first_query - slash + 1)
    if r.sliding_window is None:
        return torch.zeros_like(stop), stop, all_visible
    return columns_before(first_query - r.sliding_window + 1), stop, all_visible
