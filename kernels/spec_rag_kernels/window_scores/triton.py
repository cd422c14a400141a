"""window_scores in Triton: two passes over the keys, without stored probabilities and without atomics.

1. `row_logsumexp_kernel` computes each row's log-sum-exp over several key ranges in parallel, so that a small window
   fills the device.
2. `row_offset_kernel` joins the ranges and adds sink, weight and mask to one offset per row: a weighted probability is
   exp(logit - (logsumexp - log weight)). Masked rows have offset +inf.
3. `reduced_probabilities_kernel` holds one block of keys per program, iterates over all rows of a KV head and reduces.
   A maximum is taken over the exponents, which leaves one exponential per key and head.

Logits are exponents of 2: scaling and soft cap are multiplied by log2 e. Key blocks that all rows see entirely are
computed without a mask.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spec_rag_kernels.tiles import key_ranges, logsumexp_tiles, reduce_tiles
from spec_rag_kernels.triton_common import LOG2_E, as_bytes, launch_options, load_rows, multiply, soft_cap, unit_stride
from spec_rag_kernels.window_scores.request import WindowScoresRequest


@triton.jit  # type: ignore[untyped-decorator]
def row_logsumexp_kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    key_mask,
    partial,
    scaling,
    sliding_window,
    keys,
    window,
    group,
    key_heads,
    range_keys,
    query_batch_stride,
    query_head_stride,
    query_stride,
    key_batch_stride,
    key_head_stride,
    key_stride,
    SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """partial[range, batch, head, query] = log2 of the sum of 2 ** logit of one row over one range of keys.

    Rows are the queries of all heads of a KV head, concatenated, so that one block of keys serves the whole group.
    Grid: row blocks, key ranges, batch x KV heads.
    """
    batch = (tl.program_id(2) // key_heads).to(tl.int64)
    key_head = (tl.program_id(2) % key_heads).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_valid = rows < group * window
    head = key_head * group + rows // window
    step = rows % window
    position = keys - window + step

    dims = tl.arange(0, BLOCK_DIM)
    query_rows = query + batch * query_batch_stride + head * query_head_stride + step.to(tl.int64) * query_stride
    query_valid = row_valid[:, None]
    if HEAD_DIM < BLOCK_DIM:
        query_valid = query_valid & (dims[None, :] < HEAD_DIM)
    q = tl.load(query_rows[:, None] + dims[None, :], mask=query_valid, other=0.0)

    row_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)

    first = tl.program_id(1) * range_keys
    last = tl.minimum(first + range_keys, keys)
    if sliding_window is not None:
        oldest = tl.maximum(keys - window - sliding_window + 1, 0)
        first = tl.maximum(first, oldest // BLOCK_KEYS * BLOCK_KEYS)
    # All rows see all keys in [first, unmasked_stop).
    unmasked_stop = first
    if key_mask is None and sliding_window is None:
        stop = tl.minimum(last, keys - window + 1)
        unmasked_stop = first + tl.maximum(stop - first, 0) // BLOCK_KEYS * BLOCK_KEYS
    key_base = key + batch * key_batch_stride + key_head * key_head_stride
    for masked in tl.static_range(2):
        for start in range(unmasked_stop if masked else first, last if masked else unmasked_stop, BLOCK_KEYS):
            columns = start + tl.arange(0, BLOCK_KEYS)
            valid = columns < last
            k = load_rows(key_base, columns, key_stride, valid if masked else None, HEAD_DIM, BLOCK_DIM)
            products = multiply(q, tl.trans(k), tl.zeros([BLOCK_ROWS, BLOCK_KEYS], tl.float32), PRECISION)
            logits = soft_cap(products * scaling, SOFTCAP)
            if masked:
                if key_mask is not None:
                    valid = valid & (tl.load(key_mask + batch * keys + columns, mask=valid, other=0) != 0)
                visible = valid[None, :] & (columns[None, :] <= position[:, None])
                if sliding_window is not None:
                    visible = visible & (position[:, None] - columns[None, :] < sliding_window)
                logits = tl.where(visible, logits, float("-inf"))
            # Online softmax: rescale the running sum to the new maximum.
            new_max = tl.maximum(row_max, tl.max(logits, axis=1))
            shift = tl.where(new_max == float("-inf"), 0.0, new_max)
            total = total * tl.exp2(row_max - shift) + tl.sum(tl.exp2(logits - shift[:, None]), axis=1)
            row_max = new_max

    result = tl.where(total > 0.0, row_max + tl.log2(tl.where(total > 0.0, total, 1.0)), float("-inf"))
    batches = tl.num_programs(2) // key_heads
    heads = key_heads * group
    target = ((tl.program_id(1) * batches + batch) * heads + head) * window + step
    tl.store(partial + target, result, mask=row_valid)


@triton.jit  # type: ignore[untyped-decorator]
def row_offset_kernel(  # type: ignore[no-untyped-def]
    partial,
    sinks,
    weights,
    offset,
    ranges,
    heads,
    window,
    BLOCK_RANGES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """offset[batch x head, query]: 2 ** (logit - offset) is the row's weighted probability.

    The offset is +inf for a row of zeros: one that sees no key, has weight 0, or pads the window to whole row blocks.
    `partial` is [ranges, batch x heads, window], `weights` [batch, window], `sinks` [heads] as exponents of 2.
    Grid: row blocks, batch x heads.
    """
    step = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    valid = step < window
    line = tl.program_id(1).to(tl.int64)
    part = tl.arange(0, BLOCK_RANGES)
    sums = tl.load(
        partial + (part[:, None].to(tl.int64) * tl.num_programs(1) + line) * window + step[None, :],
        mask=(part < ranges)[:, None] & valid[None, :],
        other=float("-inf"),
    )
    row_max = tl.max(sums, axis=0)
    sink = float("-inf")
    if sinks is not None:
        sink = tl.load(sinks + line % heads)
        row_max = tl.maximum(row_max, sink)
    empty = row_max == float("-inf")
    shift = tl.where(empty, 0.0, row_max)
    total = tl.sum(tl.exp2(sums - shift[None, :]), axis=0) + tl.exp2(sink - shift)
    result = shift + tl.log2(tl.where(empty, 1.0, total))
    excluded = empty | (step >= window)
    if weights is not None:
        weight = tl.load(weights + line // heads * window + step, mask=valid, other=0.0)
        excluded = excluded | (weight == 0.0)
        result -= tl.log2(tl.where(excluded, 1.0, weight))
    tl.store(offset + line * tl.num_programs(0) * BLOCK_ROWS + step, tl.where(excluded, float("inf"), result))


@triton.jit  # type: ignore[untyped-decorator]
def reduced_probabilities_kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    key_mask,
    row_offset,
    out,
    scaling,
    sliding_window,
    keys,
    window,
    group,
    key_heads,
    query_batch_stride,
    query_head_stride,
    query_stride,
    key_batch_stride,
    key_head_stride,
    key_stride,
    SUM_QUERIES: tl.constexpr,
    SUM_HEADS: tl.constexpr,
    PER_HEAD: tl.constexpr,
    SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """out[batch, head or KV head, key]: 2 ** (logit - row_offset), reduced over queries and, unless PER_HEAD, heads.

    `row_offset` is float32 [batch, heads, window], with the window padded to whole row blocks. Products are
    [keys, rows], so that the rows of a key are in few threads. A single loop over the row blocks of all heads lets the
    pipeline prefetch across heads. Grid: key blocks, KV heads, batch.
    """
    key_head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    heads = key_heads * group
    first_key = tl.program_id(0) * BLOCK_KEYS
    columns = first_key + tl.arange(0, BLOCK_KEYS)
    in_range = columns < keys
    valid = in_range
    k = load_rows(
        key + batch * key_batch_stride + key_head * key_head_stride, columns, key_stride, in_range, HEAD_DIM, BLOCK_DIM
    )
    if key_mask is not None:
        valid = valid & (tl.load(key_mask + batch * keys + columns, mask=in_range, other=0) != 0)

    first_row = tl.maximum(first_key - (keys - window), 0) // BLOCK_ROWS * BLOCK_ROWS
    stop_row = window
    if sliding_window is not None:
        newest = first_key + BLOCK_KEYS - 1 - (keys - window) + sliding_window
        stop_row = tl.minimum(tl.maximum(newest, 0), window)
    # A head without visible rows still takes one turn, which stores its zeros.
    head_turns = tl.maximum(tl.cdiv(stop_row - first_row, BLOCK_ROWS), 1)
    turns = group * head_turns
    # Either all turns need no mask, or all are masked.
    unmasked_turns = tl.where(first_key + BLOCK_KEYS <= keys - window + 1, turns, 0)
    if sliding_window is not None:
        unmasked_turns = 0

    # Running maximum of exponents, or running sum of powers.
    INITIAL: tl.constexpr = 0.0 if SUM_QUERIES else float("-inf")
    head_reduced = tl.full([BLOCK_KEYS], INITIAL, tl.float32)
    reduced = tl.zeros([BLOCK_KEYS], tl.float32)
    query_base = query + batch * query_batch_stride + key_head * group * query_head_stride
    padded_window = tl.cdiv(window, BLOCK_ROWS) * BLOCK_ROWS
    offset_base = row_offset + (batch * heads + key_head * group) * padded_window
    for masked in tl.static_range(2):
        for turn in range(unmasked_turns if masked else 0, turns if masked else unmasked_turns):
            member = (turn // head_turns).to(tl.int64)
            steps = first_row + turn % head_turns * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
            # Padding rows repeat the last row; their offset +inf excludes them.
            rows = tl.minimum(steps, window - 1)
            q = load_rows(query_base + member * query_head_stride, rows, query_stride, None, HEAD_DIM, BLOCK_DIM)
            offset = tl.load(offset_base + member * padded_window + steps)
            products = multiply(k, tl.trans(q), tl.zeros([BLOCK_KEYS, BLOCK_ROWS], tl.float32), PRECISION)
            exponents = soft_cap(products * scaling, SOFTCAP) - offset[None, :]
            if masked:
                position = keys - window + steps
                exponents = tl.where(columns[:, None] <= position[None, :], exponents, float("-inf"))
                if sliding_window is not None:
                    near = position[None, :] - columns[:, None] < sliding_window
                    exponents = tl.where(near, exponents, float("-inf"))
            # An excluded row may hold NaN: the maximum ignores NaN, the sum needs the mask.
            if SUM_QUERIES:
                powers = tl.exp2(tl.where((offset < float("inf"))[None, :], exponents, float("-inf")))
                head_reduced += tl.sum(powers, axis=1)
            else:
                head_reduced = tl.maximum(head_reduced, tl.max(exponents, axis=1))

            head_ends = turn % head_turns == head_turns - 1
            probability = tl.where(valid, head_reduced if SUM_QUERIES else tl.exp2(head_reduced), 0.0)
            if PER_HEAD:
                head = batch * heads + key_head * group + member
                # Each turn stores; the last turn of a head stores the final value.
                tl.store(out + head * keys + columns, probability, mask=in_range)
            else:
                joined = reduced + probability if SUM_HEADS else tl.maximum(reduced, probability)
                reduced = tl.where(head_ends, joined, reduced)
            head_reduced = tl.where(head_ends, INITIAL, head_reduced)
    if not PER_HEAD:
        tl.store(out + (batch * key_heads + key_head) * keys + columns, reduced, mask=in_range)


def window_scores_triton(request: WindowScoresRequest) -> Tensor:
    """[b, h, n], [b, kv, n] or [b, n] in float32; working memory b x h x w x ranges floats and the result."""
    r = request
    query, key = unit_stride(r.query), unit_stride(r.key)
    reduced = _reduced(r, query, key, _row_logsumexp(r, query, key))
    if r.reduce_heads != "all":
        return reduced
    return reduced.amax(1) if r.head_reduction == "max" else reduced.sum(1)


def _row_logsumexp(r: WindowScoresRequest, query: Tensor, key: Tensor) -> Tensor:
    """float32 [ranges, b, h, w] as exponents of 2; -inf for rows that see no key."""
    batch, heads, window, dim = query.shape
    key_heads, keys = key.shape[1:3]
    tiles = logsumexp_tiles(query.dtype, dim).clipped(r.group * window, keys)
    row_blocks = triton.cdiv(r.group * window, tiles.rows)
    ranges, range_keys = key_ranges(keys, row_blocks * batch * key_heads, tiles)
    partial = query.new_empty(ranges, batch, heads, window, dtype=torch.float32)
    row_logsumexp_kernel[(row_blocks, ranges, batch * key_heads)](
        query,
        key,
        as_bytes(r.key_mask),
        partial,
        r.scaling * LOG2_E,
        r.sliding_window,
        keys,
        window,
        r.group,
        key_heads,
        range_keys,
        *query.stride()[:3],
        *key.stride()[:3],
        **launch_options(query, tiles, r.softcap),
    )
    return partial


def _row_offset(r: WindowScoresRequest, partial: Tensor, block_rows: int) -> Tensor:
    """float32 [b, h, w] as exponents of 2, w padded to whole row blocks: the offset of each row's logits."""
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
        *key.stride()[:3],
        SUM_QUERIES=r.reduce_queries == "sum",
        SUM_HEADS=r.head_reduction == "sum",
        PER_HEAD=per_head,
        **launch_options(query, tiles, r.softcap),
    )
    return out
