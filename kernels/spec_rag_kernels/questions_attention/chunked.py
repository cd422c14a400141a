"""questions_attention in plain torch for any device: one softmax serves the output and the scores.

All heads at once where their probabilities are few; else a head at a time, and of very many keys a few queries at a
time.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from spec_rag_kernels.checks import compute_dtype

CHUNK_BYTES = 16 * 2**20
MIN_CHUNK_QUERIES = 16


def questions_attention_chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own_key: Tensor,
    own_value: Tensor,
    lengths: Sequence[int],
    seen: Tensor,
    scaling: float,
    with_scores: bool,
) -> tuple[Tensor, Tensor | None]:
    """[1, h, w, d], and [questions, h, n] or None."""
    n, (heads, width) = key.shape[2], query.shape[1:3]
    keys, values = torch.cat([key, own_key], dim=2), torch.cat([value, own_value], dim=2)
    if not with_scores:
        grouped = heads != key.shape[1]
        return F.scaled_dot_product_attention(
            query, keys, values, attn_mask=seen, scale=scaling, enable_gqa=grouped
        ), None
    dtype = compute_dtype(query)
    if heads * width * (n + width) * dtype.itemsize <= CHUNK_BYTES:
        return _at_once(query, keys, values, lengths, seen, scaling, n)
    own_hidden, shared_hidden = ~seen[:, n:], ~seen[:, :n]
    hides_shared = bool(shared_hidden.any())
    output = torch.empty(heads, width, query.shape[3], dtype=dtype, device=query.device)
    scores = torch.zeros(len(lengths), heads, n, dtype=dtype, device=query.device)
    step = min(width, max(MIN_CHUNK_QUERIES, CHUNK_BYTES // ((n + width) * dtype.itemsize)))
    buffer = torch.empty(step, n + width, dtype=dtype, device=query.device)
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    for head in range(heads):
        group = head // (heads // key.shape[1])
        rows, columns, content = (
            query[0, head].to(dtype) * scaling,
            keys[0, group].to(dtype),
            values[0, group].to(dtype),
        )
        for start in range(0, width, step):
            stop = min(start + step, width)
            part = buffer[: stop - start]
            torch.mm(rows[start:stop], columns.T, out=part)
            part[:, n:].masked_fill_(own_hidden[start:stop], float("-inf"))
            if hides_shared:
                part[:, :n].masked_fill_(shared_hidden[start:stop], float("-inf"))
            torch.softmax(part, dim=-1, out=part)
            torch.mm(part, content, out=output[head, start:stop])
            for question, (first, last) in enumerate(pairwise(starts)):
                first, last = max(first, start), min(last, stop)
                if first < last:
                    best = part[first - start : last - start, :n].amax(0)
                    torch.maximum(scores[question, head], best, out=scores[question, head])
    return output[None].to(query.dtype), scores


def _at_once(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int], seen: Tensor, scaling: float, shared: int
) -> tuple[Tensor, Tensor]:
    """All heads in one product per step, where their probabilities fit into a chunk together."""
    (heads, width, dim), groups, dtype = query.shape[1:], keys.shape[1], compute_dtype(query)
    rows = (query[0].to(dtype) * scaling).reshape(groups, heads // groups * width, dim)
    weights = (rows @ keys[0].to(dtype).transpose(1, 2)).view(heads, width, -1)
    weights = weights.masked_fill_(~seen, float("-inf")).softmax(-1)
    output = weights.view(groups, heads // groups * width, -1) @ values[0].to(dtype)
    scores = torch.stack([part.amax(1) for part in torch.split(weights[..., :shared], list(lengths), dim=1)])
    return output.reshape(1, heads, width, dim).to(query.dtype), scores
