"""window_scores on a GPU, in two passes over the keys.

The first pass finds each row's log-sum-exp, over several ranges of keys at once so that a small window fills the
device. Between the passes that number takes in the sink, the weight and the masks of its row: a weighted probability is
exp(logit - (logsumexp - log weight)), and a row that does not count has +inf there. The second pass holds one block
of keys per program, goes over all rows of a KV head and reduces what it sees, so nothing needs an atomic and no
probability is ever stored.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spec_rag_kernels.tiles import dot_size
from spec_rag_kernels.triton_common import as_bytes, dot_precision, load_rows, multiply, soft_cap, unit_stride
from spec_rag_kernels.window_scores.request import WindowScoresRequest
from spec_rag_kernels.window_scores.tiling import key_ranges, logsumexp_tiles, reduce_tiles


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
    """partial[range, batch, head, query] = logsumexp of one row over one range of keys.

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
    key_base = key + batch * key_batch_stride + key_head * key_head_stride
    for start in range(first, last, BLOCK_KEYS):
        columns = start + tl.arange(0, BLOCK_KEYS)
        exists = columns < last
        k = load_rows(key_base, columns, key_stride, exists, HEAD_DIM, BLOCK_DIM)
        if key_mask is not None:
            exists = exists & (tl.load(key_mask + batch * mask_batch_stride + columns, mask=exists, other=0) != 0)
        visible = tl.broadcast_to(exists[None, :], (BLOCK_ROWS, BLOCK_KEYS))
        if own_key is None:
            visible = visible & (columns[None, :] <= position[:, None])
        if sliding_window is not None:
            visible = visible & (position[:, None] - columns[None, :] < sliding_window)
        logits = multiply(q, tl.trans(k), tl.zeros([BLOCK_ROWS, BLOCK_KEYS], tl.float32), PRECISION)
        logits = soft_cap(logits * scaling, SOFTCAP)
        logits = tl.where(visible, logits, float("-inf"))
        new_top = tl.maximum(top, tl.max(logits, axis=1))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(logits - shift[:, None]), axis=1)
        top = new_top

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
            logits = multiply(q, tl.trans(k), tl.zeros([BLOCK_ROWS, BLOCK_KEYS], tl.float32), PRECISION)
            logits = soft_cap(logits * scaling, SOFTCAP)
            logits = tl.where(visible, logits, float("-inf"))
            new_top = tl.maximum(top, tl.max(logits, axis=1))
            shift = tl.where(new_top == float("-inf"), 0.0, new_top)
            total = total * tl.exp(top - shift) + tl.sum(tl.exp(logits - shift[:, None]), axis=1)
            top = new_top

    result = tl.where(total > 0.0, top + tl.log(tl.where(total > 0.0, total, 1.0)), float("-inf"))
    batches = tl.num_programs(2) // key_heads
    heads = key_heads * group
    target = ((tl.program_id(1) * batches + batch) * heads + head) * window + step
    tl.store(partial + target, result, mask=row_exists)


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
    """out[batch, head or KV head, key] = the reduction of exp(logit - row_offset) over queries and, unless PER_HEAD,
    heads.

    Grid: blocks of keys, KV heads, batch. `row_offset` is float32 [batch, heads, window].
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
    k = tl.trans(k)
    if key_mask is not None:
        exists = exists & (tl.load(key_mask + batch * mask_batch_stride + columns, mask=exists, other=0) != 0)

    first_row = 0
    stop_row = window
    if CAUSAL:
        first_row = tl.maximum(first_key - (keys - window), 0) // BLOCK_ROWS * BLOCK_ROWS
    if sliding_window is not None:
        newest = first_key + BLOCK_KEYS - 1 - (keys - window) + sliding_window
        stop_row = tl.minimum(tl.maximum(newest, 0), window)

    reduced = tl.zeros([BLOCK_KEYS], tl.float32)
    for member in range(group):
        head = key_head * group + member
        head_reduced = tl.zeros([BLOCK_KEYS], tl.float32)
        query_base = query + batch * query_batch_stride + head * query_head_stride
        for start in range(first_row, stop_row, BLOCK_ROWS):
            steps = start + tl.arange(0, BLOCK_ROWS)
            row_exists = steps < window
            q = load_rows(query_base, steps, query_stride, row_exists, HEAD_DIM, BLOCK_DIM)
            offset = tl.load(row_offset + (batch * heads + head) * window + steps, mask=row_exists, other=float("inf"))
            logits = multiply(q, k, tl.zeros([BLOCK_ROWS, BLOCK_KEYS], tl.float32), PRECISION)
            logits = soft_cap(logits * scaling, SOFTCAP)
            # A row that does not count may hold anything, also NaN.
            visible = exists[None, :] & (offset < float("inf"))[:, None]
            position = keys - window + steps
            if CAUSAL:
                visible = visible & (columns[None, :] <= position[:, None])
            if sliding_window is not None:
                visible = visible & (position[:, None] - columns[None, :] < sliding_window)
            probability = tl.exp(tl.where(visible, logits - offset[:, None], float("-inf")))
            if SUM_QUERIES:
                head_reduced += tl.sum(probability, axis=0)
            else:
                head_reduced = tl.maximum(head_reduced, tl.max(probability, axis=0))
        if PER_HEAD:
            tl.store(out + (batch * heads + head) * keys + columns, head_reduced, mask=in_range)
        elif SUM_HEADS:
            reduced += head_reduced
        else:
            reduced = tl.maximum(reduced, head_reduced)
    if not PER_HEAD:
        tl.store(out + (batch * key_heads + key_head) * keys + columns, reduced, mask=in_range)


def window_scores_triton(request: WindowScoresRequest) -> Tensor:
    """[b, h, n], [b, kv, n] or [b, n] in float32; working memory b x h x w x ranges floats beside the result."""
    r = request
    query, key = unit_stride(r.query), unit_stride(r.key)
    offset = _row_offset(r, _row_logsumexp(r, query, key))
    reduced = _reduced(r, query, key, offset)
    if r.reduce_heads != "all":
        return reduced
    return reduced.amax(1) if r.head_reduction == "max" else reduced.sum(1)


def _row_logsumexp(r: WindowScoresRequest, query: Tensor, key: Tensor) -> Tensor:
    """float32 [b, h, w], -inf where a row sees nothing."""
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
        r.scaling,
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
        SOFTCAP=r.softcap,
        PRECISION=dot_precision(query),
        HEAD_DIM=dim,
        BLOCK_DIM=dot_size(dim),
        BLOCK_ROWS=tiles.rows,
        BLOCK_KEYS=tiles.keys,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return partial[0] if ranges == 1 else partial.logsumexp(0)


def _row_offset(r: WindowScoresRequest, logsumexp: Tensor) -> Tensor:
    """What to subtract from a row's logits so that exp gives its weighted probability; +inf for a row that gives
    zeros.
    """
    if r.sinks is not None:
        logsumexp = torch.logaddexp(logsumexp, r.sinks.float()[None, :, None])
    if r.row_weights is not None:
        logsumexp = logsumexp - r.row_weights.log()[:, None, :]
    # A row that sees nothing has -inf, and one of weight zero whose query is not a number has NaN.
    gives_nothing = logsumexp == float("-inf")
    if r.row_weights is not None:
        gives_nothing |= (r.row_weights == 0)[:, None, :]
    return logsumexp.masked_fill(gives_nothing, float("inf")).contiguous()


def _reduced(r: WindowScoresRequest, query: Tensor, key: Tensor, offset: Tensor) -> Tensor:
    """float32 [b, h, n] or [b, kv, n]."""
    batch, heads, window, dim = query.shape
    key_heads, keys = key.shape[1:3]
    per_head = r.reduce_heads == "none"
    restricted = any(one is not None for one in (r.softcap, r.sliding_window, r.key_mask))
    tiles = reduce_tiles(query.dtype, dim, restricted).clipped(window, keys)
    out = query.new_empty(batch, heads if per_head else key_heads, keys, dtype=torch.float32)
    reduced_probabilities_kernel[(triton.cdiv(keys, tiles.keys), key_heads, batch)](
        query,
        key,
        as_bytes(r.key_mask),
        offset,
        out,
        r.scaling,
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


def _shared_strides(key: Tensor) -> tuple[int, int, int]:
    """Batch, head and token strides; one set of keys serves every batch row."""
    batch_stride, head_stride, stride = key.stride()[:3]
    return (0 if key.shape[0] == 1 else batch_stride), head_stride, stride
