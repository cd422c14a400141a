"""The kernels of window_scores: two passes over the keys.

The first pass finds each row's log-sum-exp, over several ranges of keys at once so that a small window fills the
device. Between the passes that number takes in the sink, the weight and the masks of its row: a weighted probability is
exp(logit - (logsumexp - log weight)), and a row that does not count has +inf there. The second pass holds one block
of keys per program, goes over all rows of a KV head and reduces what it sees, so nothing needs an atomic and no
probability is ever stored; where the largest is wanted, it is found among the exponents, and one exponential per key
and head is left.

Logits are in powers of two, as the device computes them: scaling and soft cap come multiplied by log2 e. A block of
keys that nothing hides from any row is not masked.
"""

import triton
import triton.language as tl

from spec_rag_kernels.triton_common import load_rows, multiply, soft_cap


@triton.jit
def _add_powers(logits, top, total):  # type: ignore[no-untyped-def]
    """Each row's largest logit and sum of 2 ** (logit - largest), with a block of logits [rows, keys] added."""
    new_top = tl.maximum(top, tl.max(logits, axis=1))
    shift = tl.where(new_top == float("-inf"), 0.0, new_top)
    total = total * tl.exp2(top - shift) + tl.sum(tl.exp2(logits - shift[:, None]), axis=1)
    return new_top, total


@triton.jit  # type: ignore[untyped-decorator]
def row_logsumexp_kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    own_key,
    key_mask,
    own_key_mask,
    partial,
    scaling,
    sliding_window,
    keys,
    own_keys,
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
    own_batch_stride,
    own_head_stride,
    own_stride,
    mask_batch_stride,
    SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """partial[range, batch, head, query] = log2 of the sum of 2 ** logit of one row over one range of keys.

    Rows are the queries of all heads of a KV head, one after the other, so that a block of keys serves the whole group.
    Grid: blocks of rows, ranges, batch x KV heads. The own keys go with the first range.
    """
    batch = (tl.program_id(2) // key_heads).to(tl.int64)
    key_head = (tl.program_id(2) % key_heads).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_exists = rows < group * window
    head = key_head * group + rows // window
    step = rows % window
    position = keys - window + step

    dims = tl.arange(0, BLOCK_DIM)
    query_rows = query + batch * query_batch_stride + head * query_head_stride + step.to(tl.int64) * query_stride
    query_mask = row_exists[:, None]
    if HEAD_DIM < BLOCK_DIM:
        query_mask = query_mask & (dims[None, :] < HEAD_DIM)
    q = tl.load(query_rows[:, None] + dims[None, :], mask=query_mask, other=0.0)

    top = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)

    first = tl.program_id(1) * range_keys
    last = tl.minimum(first + range_keys, keys)
    if sliding_window is not None:
        oldest = tl.maximum(keys - window - sliding_window + 1, 0)
        first = tl.maximum(first, oldest // BLOCK_KEYS * BLOCK_KEYS)
    # before here every row of the window sees every key
    seen_by_all = first
    if key_mask is None and sliding_window is None:
        stop = last
        if own_key is None:
            stop = tl.minimum(last, keys - window + 1)
        seen_by_all = first + tl.maximum(stop - first, 0) // BLOCK_KEYS * BLOCK_KEYS
    key_base = key + batch * key_batch_stride + key_head * key_head_stride
    for masked in tl.static_range(2):
        for start in range(seen_by_all if masked else first, last if masked else seen_by_all, BLOCK_KEYS):
            columns = start + tl.arange(0, BLOCK_KEYS)
            exists = columns < last
            k = load_rows(key_base, columns, key_stride, exists if masked else None, HEAD_DIM, BLOCK_DIM)
            products = multiply(q, tl.trans(k), tl.zeros([BLOCK_ROWS, BLOCK_KEYS], tl.float32), PRECISION)
            logits = soft_cap(products * scaling, SOFTCAP)
            if masked:
                if key_mask is not None:
                    mask = tl.load(key_mask + batch * mask_batch_stride + columns, mask=exists, other=0)
                    exists = exists & (mask != 0)
                visible = tl.broadcast_to(exists[None, :], (BLOCK_ROWS, BLOCK_KEYS))
                if own_key is None:
                    visible = visible & (columns[None, :] <= position[:, None])
                if sliding_window is not None:
                    visible = visible & (position[:, None] - columns[None, :] < sliding_window)
                logits = tl.where(visible, logits, float("-inf"))
            top, total = _add_powers(logits, top, total)

    if own_key is not None:
        own_base = own_key + batch * own_batch_stride + key_head * own_head_stride
        own_stop = tl.where(tl.program_id(1) == 0, own_keys, 0)
        for start in range(0, own_stop, BLOCK_KEYS):
            columns = start + tl.arange(0, BLOCK_KEYS)
            exists = columns < own_keys
            k = load_rows(own_base, columns, own_stride, exists, HEAD_DIM, BLOCK_DIM)
            if own_key_mask is not None:
                exists = exists & (tl.load(own_key_mask + batch * own_keys + columns, mask=exists, other=0) != 0)
            visible = tl.broadcast_to(exists[None, :], (BLOCK_ROWS, BLOCK_KEYS))
            visible = visible & (columns[None, :] <= own_keys - window + step[:, None])
            products = multiply(q, tl.trans(k), tl.zeros([BLOCK_ROWS, BLOCK_KEYS], tl.float32), PRECISION)
            logits = tl.where(visible, soft_cap(products * scaling, SOFTCAP), float("-inf"))
            top, total = _add_powers(logits, top, total)

    result = tl.where(total > 0.0, top + tl.log2(tl.where(total > 0.0, total, 1.0)), float("-inf"))
    batches = tl.num_programs(2) // key_heads
    heads = key_heads * group
    target = ((tl.program_id(1) * batches + batch) * heads + head) * window + step
    tl.store(partial + target, result, mask=row_exists)


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
    """offset[batch x head, query] = what to subtract from a row's logits so that 2 ** gives its weighted probabilities.

    +inf for a row that gives zeros: it sees nothing, its weight is 0, or it lies past the window, which `offset` has in
    whole blocks of rows. `partial` is [ranges, batch x heads, window], `weights` [batch, window], `sinks` [heads] in
    powers of two. Grid: blocks of rows, batch x heads.
    """
    step = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    exists = step < window
    line = tl.program_id(1).to(tl.int64)
    part = tl.arange(0, BLOCK_RANGES)
    sums = tl.load(
        partial + (part[:, None].to(tl.int64) * tl.num_programs(1) + line) * window + step[None, :],
        mask=(part < ranges)[:, None] & exists[None, :],
        other=float("-inf"),
    )
    top = tl.max(sums, axis=0)
    sink = float("-inf")
    if sinks is not None:
        sink = tl.load(sinks + line % heads)
        top = tl.maximum(top, sink)
    sees_nothing = top == float("-inf")
    shift = tl.where(sees_nothing, 0.0, top)
    total = tl.sum(tl.exp2(sums - shift[None, :]), axis=0) + tl.exp2(sink - shift)
    result = shift + tl.log2(tl.where(sees_nothing, 1.0, total))
    gives_nothing = sees_nothing | (step >= window)
    if weights is not None:
        weight = tl.load(weights + line // heads * window + step, mask=exists, other=0.0)
        gives_nothing = gives_nothing | (weight == 0.0)
        result -= tl.log2(tl.where(gives_nothing, 1.0, weight))
    tl.store(offset + line * tl.num_programs(0) * BLOCK_ROWS + step, tl.where(gives_nothing, float("inf"), result))


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
    mask_batch_stride,
    CAUSAL: tl.constexpr,
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
    """out[batch, head or KV head, key] = the reduction of 2 ** (logit - row_offset) over queries and, unless PER_HEAD,
    heads.

    Grid: blocks of keys, KV heads, batch. `row_offset` is float32 [batch, heads, window], the window in
    whole blocks of rows. Products are [keys, rows], so that a key's rows lie in few threads. One loop goes over the
    blocks of rows of all heads, so that the next head's rows are on their way while one is computed.
    """
    key_head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    heads = key_heads * group
    first_key = tl.program_id(0) * BLOCK_KEYS
    columns = first_key + tl.arange(0, BLOCK_KEYS)
    exists = columns < keys
    in_range = exists
    k = load_rows(
        key + batch * key_batch_stride + key_head * key_head_stride, columns, key_stride, exists, HEAD_DIM, BLOCK_DIM
    )
    if key_mask is not None:
        exists = exists & (tl.load(key_mask + batch * mask_batch_stride + columns, mask=exists, other=0) != 0)

    first_row = 0
    stop_row = window
    if CAUSAL:
        first_row = tl.maximum(first_key - (keys - window), 0) // BLOCK_ROWS * BLOCK_ROWS
    if sliding_window is not None:
        newest = first_key + BLOCK_KEYS - 1 - (keys - window) + sliding_window
        stop_row = tl.minimum(tl.maximum(newest, 0), window)
    # a head that no row looks from has one turn as well, in which it is found to be zero
    head_turns = tl.maximum(tl.cdiv(stop_row - first_row, BLOCK_ROWS), 1)
    turns = group * head_turns
    seen_by_all = turns
    if CAUSAL:
        seen_by_all = tl.where(first_key + BLOCK_KEYS <= keys - window + 1, turns, 0)
    if sliding_window is not None:
        seen_by_all = 0

    # the largest exponent so far, or the sum of powers
    NOTHING: tl.constexpr = 0.0 if SUM_QUERIES else float("-inf")
    head_reduced = tl.full([BLOCK_KEYS], NOTHING, tl.float32)
    reduced = tl.zeros([BLOCK_KEYS], tl.float32)
    query_base = query + batch * query_batch_stride + key_head * group * query_head_stride
    padded_window = tl.cdiv(window, BLOCK_ROWS) * BLOCK_ROWS
    offset_base = row_offset + (batch * heads + key_head * group) * padded_window
    for masked in tl.static_range(2):
        for turn in range(seen_by_all if masked else 0, turns if masked else seen_by_all):
            member = (turn // head_turns).to(tl.int64)
            steps = first_row + turn % head_turns * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
            # past the window the last row stands again, with an offset that takes it out
            rows = tl.minimum(steps, window - 1)
            q = load_rows(query_base + member * query_head_stride, rows, query_stride, None, HEAD_DIM, BLOCK_DIM)
            offset = tl.load(offset_base + member * padded_window + steps)
            products = multiply(k, tl.trans(q), tl.zeros([BLOCK_KEYS, BLOCK_ROWS], tl.float32), PRECISION)
            exponents = soft_cap(products * scaling, SOFTCAP) - offset[None, :]
            if masked:
                position = keys - window + steps
                if CAUSAL:
                    exponents = tl.where(columns[:, None] <= position[None, :], exponents, float("-inf"))
                if sliding_window is not None:
                    near = position[None, :] - columns[:, None] < sliding_window
                    exponents = tl.where(near, exponents, float("-inf"))
            # A row that does not count may hold anything, also NaN, which is never the largest.
            if SUM_QUERIES:
                powers = tl.exp2(tl.where((offset < float("inf"))[None, :], exponents, float("-inf")))
                head_reduced += tl.sum(powers, axis=1)
            else:
                head_reduced = tl.maximum(head_reduced, tl.max(exponents, axis=1))

            head_ends = turn % head_turns == head_turns - 1
            probability = tl.where(exists, head_reduced if SUM_QUERIES else tl.exp2(head_reduced), 0.0)
            if PER_HEAD:
                head = batch * heads + key_head * group + member
                # the last of a head's turns has the final word
                tl.store(out + head * keys + columns, probability, mask=in_range)
            else:
                joined = reduced + probability if SUM_HEADS else tl.maximum(reduced, probability)
                reduced = tl.where(head_ends, joined, reduced)
            head_reduced = tl.where(head_ends, NOTHING, head_reduced)
    if not PER_HEAD:
        tl.store(out + (batch * key_heads + key_head) * keys + columns, reduced, mask=in_range)
