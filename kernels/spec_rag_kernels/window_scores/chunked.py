"""window_scores in plain torch for any device: exact, one pass over chunks of probability rows.

Rows are independent, so a chunk of rows covers all keys, its softmax needs no second pass, and it is reduced into the
result while it is in the CPU cache.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from spec_rag_kernels.checks import compute_dtype
from spec_rag_kernels.parallel import run_pieces, threads_for
from spec_rag_kernels.window_scores.request import WindowScoresRequest

# Shared by all threads, so that more cores do not take more memory.
CHUNK_BYTES = 2 * 2**20
# With fewer rows the products are as slow as reading the keys, so very long prompts exceed CHUNK_BYTES.
MIN_CHUNK_ROWS = 16
KEYS_PER_CAST = 4096


@dataclass(frozen=True)
class _Block:
    """Queries [start, stop) of the window, and the first key visible to any of them."""

    start: int
    stop: int
    first_key: int


def window_scores_chunked(request: WindowScoresRequest) -> Tensor:
    """[b, h, n], [b, kv, n] or [b, n]; working memory CHUNK_BYTES, at least MIN_CHUNK_ROWS rows per thread."""
    r = request
    batch, heads, _, _ = r.query.shape
    key_heads, keys = r.key.shape[1:3]
    per_head = r.reduce_heads == "none"
    result = torch.zeros(
        batch, heads if per_head else key_heads, keys, dtype=compute_dtype(r.query), device=r.query.device
    )
    work = r.query.numel() * keys
    chunk_bytes = CHUNK_BYTES // threads_for(batch * key_heads, work, r.query.device)
    pieces = [
        partial(_score_group, r, row, key_head, chunk_bytes, result)
        for row in range(batch)
        for key_head in range(key_heads)
    ]
    run_pieces(pieces, work, r.query.device)
    return _reduce(result.transpose(0, 1), r.head_reduction) if r.reduce_heads == "all" else result


def _score_group(r: WindowScoresRequest, row: int, key_head: int, chunk_bytes: int, result: Tensor) -> None:
    """Write the scores of the query heads of one KV head, as many heads at a time as fit into a chunk."""
    window, width = r.query.shape[2], r.key.shape[2] + (r.sinks is not None)
    rows = max(MIN_CHUNK_ROWS, chunk_bytes // (result.dtype.itemsize * width))
    head_step = max(1, min(r.group, rows // window))
    query_step = min(window, rows)
    buffer = torch.empty(head_step * query_step * width, dtype=result.dtype, device=result.device)
    members = range(key_head * r.group, (key_head + 1) * r.group)
    for first in range(0, r.group, head_step):
        heads = list(members[first : first + head_step])
        scores = _heads_scores(r, row, heads, query_step, buffer)
        if r.reduce_heads == "none":
            result[row, heads] = scores
        else:
            _accumulate(result[row, key_head], _reduce(scores, r.head_reduction), r.head_reduction)


def _heads_scores(r: WindowScoresRequest, row: int, heads: list[int], query_step: int, buffer: Tensor) -> Tensor:
    """[heads, n]: the scores of query heads of one KV head, reduced over the queries."""
    window, keys = r.query.shape[2], r.key.shape[2]
    scores = torch.zeros(len(heads), keys, dtype=buffer.dtype, device=buffer.device)
    for start in range(0, window, query_step):
        stop = min(start + query_step, window)
        first_key = 0
        if r.sliding_window is not None:
            first_key = max(0, keys - window + start - r.sliding_window + 1)
        probabilities = _probabilities(r, row, heads, _Block(start, stop, first_key), buffer)
        if r.row_weights is not None:
            weights = r.row_weights[row, start:stop, None].to(buffer.dtype)
            # A masked row may hold NaN, so it is overwritten, not only multiplied by zero.
            probabilities.mul_(weights).masked_fill_(weights == 0, 0.0)
        reduced = probabilities.amax(1) if r.reduce_queries == "max" else probabilities.sum(1)
        _accumulate(scores[:, first_key:], reduced, r.reduce_queries)
    return scores


def _probabilities(r: WindowScoresRequest, row: int, heads: list[int], block: _Block, buffer: Tensor) -> Tensor:
    """Softmax over the visible keys, as a view [heads, queries, n - first_key] of the buffer."""
    window, keys = r.query.shape[2], r.key.shape[2]
    queries, first = block.stop - block.start, block.first_key
    width = keys - first
    columns = width + (r.sinks is not None)
    flat = buffer[: len(heads) * queries * columns].view(len(heads) * queries, columns)
    logits = flat.view(len(heads), queries, columns)

    rows = (r.query[row, heads, block.start : block.stop].to(buffer.dtype) * r.scaling).flatten(0, 1)
    _multiply(rows, r.key[row, heads[0] // r.group, first:], flat[:, :width])
    if r.softcap is not None:
        flat.div_(r.softcap).tanh_().mul_(r.softcap)

    # All queries see the keys before the window, so only the window's own keys need the causal mask.
    causal_from = max(first, keys - window)
    _mask_later(logits[..., causal_from - first : width], keys - window + block.start - causal_from)
    if r.sliding_window is not None:
        position = torch.arange(keys - window + block.start, keys - window + block.stop, device=flat.device)
        key_position = torch.arange(first, keys, device=flat.device)
        logits[..., :width].masked_fill_(position[:, None] - key_position >= r.sliding_window, float("-inf"))
    if r.key_mask is not None:
        flat[:, :width].masked_fill_(~r.key_mask[row, first:], float("-inf"))
    if r.sinks is not None:
        logits[..., -1] = r.sinks[heads].to(buffer.dtype)[:, None]
    return _softmax(r, flat).view(len(heads), queries, columns)[..., :width]


def _multiply(rows: Tensor, keys: Tensor, out: Tensor) -> None:
    """out = rows @ keys.T, casting narrower keys to the compute dtype a piece at a time."""
    if keys.dtype == rows.dtype:
        torch.mm(rows, keys.T, out=out)
        return
    for start in range(0, keys.shape[0], KEYS_PER_CAST):
        piece = keys[start : start + KEYS_PER_CAST].to(rows.dtype)
        torch.mm(rows, piece.T, out=out[:, start : start + KEYS_PER_CAST])


def _mask_later(logits: Tensor, offset: int) -> None:
    """Set logits [heads, queries, keys] to -inf where key > offset + query."""
    queries, keys = logits.shape[1:]
    later = torch.ones(queries, keys, dtype=torch.bool, device=logits.device).triu_(offset + 1)
    logits.masked_fill_(later, float("-inf"))


def _softmax(r: WindowScoresRequest, flat: Tensor) -> Tensor:
    """Softmax in place. A fully masked row becomes zeros."""
    may_be_empty = r.sinks is None and r.key_mask is not None
    empty = flat.amax(-1, keepdim=True) == float("-inf") if may_be_empty else None
    torch.softmax(flat, dim=-1, out=flat)
    return flat if empty is None else flat.masked_fill_(empty, 0.0)


def _reduce(scores: Tensor, reduction: str) -> Tensor:
    return scores.amax(0) if reduction == "max" else scores.sum(0)


def _accumulate(total: Tensor, scores: Tensor, reduction: str) -> None:
    if reduction == "max":
        torch.maximum(total, scores, out=total)
    else:
        total += scores
