"""window_scores in plain torch for any device: exact, in one pass, a few rows of probabilities at a time.

Rows are independent, so a chunk of rows sees all its keys at once and needs no second pass: the softmax is final
when it is taken, and is reduced into the result while it is still in the processor's cache.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from spec_rag_kernels.checks import compute_dtype
from spec_rag_kernels.parallel import run_pieces, threads_for
from spec_rag_kernels.window_scores.request import WindowScoresRequest

# Of all threads together, so that the cores of a machine do not multiply what is held.
CHUNK_BYTES = 2 * 2**20
# Fewer rows than this make the products with the keys as slow as reading the keys, so very long prompts get more bytes.
MIN_CHUNK_ROWS = 16
KEYS_PER_CAST = 4096


@dataclass(frozen=True)
class _Block:
    """The rows of `heads` neighbouring query heads and `stop - start` queries, and the first key that any of them
    sees.
    """

    start: int
    stop: int
    first_key: int


def window_scores_chunked(request: WindowScoresRequest) -> Tensor:
    """[b, h, n], [b, kv, n] or [b, n]; working memory CHUNK_BYTES (but MIN_CHUNK_ROWS rows per thread) beside the
    result.
    """
    r = request
    batch, heads, _, _ = r.query.shape
    key_heads, keys = r.key.shape[1:3]
    per_head = r.reduce_heads == "none"
    result = torch.zeros(
        batch, heads if per_head else key_heads, keys, dtype=compute_dtype(r.query), device=r.query.device
    )
    work = r.query.numel() * keys
    chunk_bytes = CHUNK_BYTES // threads_for(batch * key_heads, work, r.query.device)
    pieces = []
    for row in range(batch):
        for key_head in range(key_heads):
            members = list(range(key_head * r.group, (key_head + 1) * r.group))
            pieces.append(partial(_score_group, r, row, members, chunk_bytes, result))
    run_pieces(pieces, work, r.query.device)
    return _reduce(result.transpose(0, 1), r.head_reduction) if r.reduce_heads == "all" else result


def _score_group(r: WindowScoresRequest, row: int, members: list[int], chunk_bytes: int, result: Tensor) -> None:
    """Write the scores of the query heads of one KV head, as many heads at a time as a chunk holds."""
    window, keys = r.query.shape[2], r.key.shape[2]
    own = 0 if r.own_key is None else r.own_key.shape[2]
    width = keys + own + (r.sinks is not None)
    rows = max(MIN_CHUNK_ROWS, chunk_bytes // (result.dtype.itemsize * width))
    head_step = max(1, min(len(members), rows // window))
    query_step = min(window, rows)
    buffer = torch.empty(head_step * query_step * width, dtype=result.dtype, device=result.device)
    for first in range(0, len(members), head_step):
        heads = members[first : first + head_step]
        scores = _heads_scores(r, row, heads, query_step, buffer)
        if r.reduce_heads == "none":
            result[row, heads] = scores
        else:
            _fold(result[row, heads[0] // r.group], _reduce(scores, r.head_reduction), r.head_reduction)


def _heads_scores(r: WindowScoresRequest, row: int, heads: list[int], query_step: int, buffer: Tensor) -> Tensor:
    """[heads, n]: the scores of some query heads of one KV head, reduced over the queries."""
    window, keys = r.query.shape[2], r.key.shape[2]
    scores = torch.zeros(len(heads), keys, dtype=buffer.dtype, device=buffer.device)
    for start in range(0, window, query_step):
        stop = min(start + query_step, window)
        weights = None if r.row_weights is None else r.row_weights[row, start:stop].to(buffer.dtype)
        first_key = 0
        if r.sliding_window is not None:
            first_key = max(0, keys - window + start - r.sliding_window + 1)
        block = _Block(start, stop, first_key)
        probabilities = _probabilities(r, row, heads, block, buffer)
        if weights is not None:
            # A row that does not count may hold anything, so it is overwritten and not multiplied by zero.
            probabilities.mul_(weights[:, None]).masked_fill_(weights[:, None] == 0, 0.0)
        into = scores[:, first_key:]
        if r.reduce_queries == "max":
            torch.maximum(into, probabilities.amax(1), out=into)
        else:
            into += probabilities.sum(1)
    return scores


def _probabilities(r: WindowScoresRequest, row: int, heads: list[int], block: _Block, buffer: Tensor) -> Tensor:
    """A view [heads, queries, n - first_key] of the buffer, softmaxed over all that the queries see."""
    window, keys = r.query.shape[2], r.key.shape[2]
    queries, first = block.stop - block.start, block.first_key
    shared = keys - first
    own = 0 if r.own_key is None else r.own_key.shape[2]
    width = shared + own + (r.sinks is not None)
    key_row, key_head = row if r.key.shape[0] > 1 else 0, heads[0] // r.group
    flat = buffer[: len(heads) * queries * width].view(len(heads) * queries, width)
    logits = flat.view(len(heads), queries, width)

    rows = (r.query[row, heads, block.start : block.stop].to(buffer.dtype) * r.scaling).flatten(0, 1)
    _multiply(rows, r.key[key_row, key_head, first:], flat[:, :shared])
    if r.own_key is not None:
        _multiply(rows, r.own_key[row, key_head], flat[:, shared : shared + own])
    if r.softcap is not None:
        flat.div_(r.softcap).tanh_().mul_(r.softcap)

    if r.own_key is None:
        # No query is blind to the keys before the window, so only the window's own keys need a look.
        causal_from = max(first, keys - window)
        _hide_later(logits[..., causal_from - first : shared], keys - window + block.start - causal_from)
    if r.sliding_window is not None:
        position = torch.arange(keys - window + block.start, keys - window + block.stop, device=flat.device)
        key_position = torch.arange(first, keys, device=flat.device)
        logits[..., :shared].masked_fill_(position[:, None] - key_position >= r.sliding_window, float("-inf"))
    if r.key_mask is not None:
        flat[:, :shared].masked_fill_(~r.key_mask[key_row, first:], float("-inf"))
    if r.own_key is not None:
        _hide_later(logits[..., shared : shared + own], block.start + own - window)
        if r.seen_own_keys is not None:
            flat[:, shared : shared + own].masked_fill_(~r.seen_own_keys[row], float("-inf"))
    if r.sinks is not None:
        logits[..., -1] = r.sinks[heads].to(buffer.dtype)[:, None]
    return _softmax(r, flat).view(len(heads), queries, width)[..., :shared]


def _multiply(rows: Tensor, keys: Tensor, out: Tensor) -> None:
    """out = rows @ keys.T, casting the keys piece by piece when they are narrower than what is computed in."""
    if keys.dtype == rows.dtype:
        torch.mm(rows, keys.T, out=out)
        return
    for start in range(0, keys.shape[0], KEYS_PER_CAST):
        piece = keys[start : start + KEYS_PER_CAST].to(rows.dtype)
        torch.mm(rows, piece.T, out=out[:, start : start + KEYS_PER_CAST])


def _hide_later(logits: Tensor, offset: int) -> None:
    """Of logits [heads, queries, keys], hide from query i the keys after offset + i."""
    queries, keys = logits.shape[1:]
    later = torch.ones(queries, keys, dtype=torch.bool, device=logits.device).triu_(offset + 1)
    logits.masked_fill_(later, float("-inf"))


def _softmax(r: WindowScoresRequest, flat: Tensor) -> Tensor:
    """Softmax in place. A row that sees nothing becomes zeros."""
    may_be_blind = r.sinks is None and (r.key_mask is not None or r.own_key is not None)
    blind = flat.amax(-1, keepdim=True) == float("-inf") if may_be_blind else None
    torch.softmax(flat, dim=-1, out=flat)
    return flat if blind is None else flat.masked_fill_(blind, 0.0)


def _reduce(scores: Tensor, reduction: str) -> Tensor:
    return scores.amax(0) if reduction == "max" else scores.sum(0)


def _fold(into: Tensor, scores: Tensor, reduction: str) -> None:
    if reduction == "max":
        torch.maximum(into, scores, out=into)
    else:
        into += scores
