"""questions_attention in plain torch for any device: one softmax gives both the output and the scores.

All heads are computed at once if their probabilities fit into a chunk, otherwise one head and a few queries at a time.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from spec_rag_kernels.checks import compute_dtype
from spec_rag_kernels.questions_attention.request import QuestionsRequest

CHUNK_BYTES = 16 * 2**20
MIN_CHUNK_QUERIES = 16


def questions_attention_chunked(request: QuestionsRequest) -> tuple[Tensor, Tensor | None]:
    """[1, h, w, d], and [questions, h, n] or None."""
    r = request
    if not r.with_scores:
        return fused_output(r), None
    _, heads, width, _ = r.query.shape
    dtype = compute_dtype(r.query)
    if heads * width * r.keys.shape[2] * dtype.itemsize <= CHUNK_BYTES:
        return _all_heads(r)
    output = torch.empty(r.query.shape[1:], dtype=dtype, device=r.query.device)
    scores = torch.zeros(len(r.lengths), heads, r.shared_keys, dtype=dtype, device=r.query.device)
    step = min(width, max(MIN_CHUNK_QUERIES, CHUNK_BYTES // (r.keys.shape[2] * dtype.itemsize)))
    buffer = torch.empty(step, r.keys.shape[2], dtype=dtype, device=r.query.device)
    masks = ~r.visible[:, r.shared_keys :], r.hidden if r.hidden is not None and r.hidden.any() else None
    for head in range(heads):
        _one_head(r, head, masks, buffer, output[head], scores[:, head])
    return output[None].to(r.query.dtype), scores


def fused_output(r: QuestionsRequest) -> Tensor:
    """[1, h, w, d]: the output alone, by torch's fused attention."""
    return F.scaled_dot_product_attention(
        r.query, r.keys, r.values, attn_mask=r.visible, scale=r.scaling, enable_gqa=r.group != 1
    )


def _all_heads(r: QuestionsRequest) -> tuple[Tensor, Tensor]:
    """Output and scores with one product per step over all heads."""
    (heads, width, dim), key_heads, dtype = r.query.shape[1:], r.keys.shape[1], compute_dtype(r.query)
    rows = (r.query[0].to(dtype) * r.scaling).reshape(key_heads, r.group * width, dim)
    weights = (rows @ r.keys[0].to(dtype).transpose(1, 2)).view(heads, width, -1)
    weights = weights.masked_fill_(~r.visible, float("-inf")).softmax(-1)
    output = weights.view(key_heads, r.group * width, -1) @ r.values[0].to(dtype)
    shared = weights[..., : r.shared_keys]
    scores = torch.stack([part.amax(1) for part in torch.split(shared, list(r.lengths), dim=1)])
    return output.reshape(1, heads, width, dim).to(r.query.dtype), scores


def _one_head(
    r: QuestionsRequest, head: int, masks: tuple[Tensor, Tensor | None], buffer: Tensor, output: Tensor, scores: Tensor
) -> None:
    """Write one head's output [w, d] and scores [questions, n], as many queries at a time as `buffer` holds.

    `masks` are True for own keys and shared keys to hide; None hides no shared key.
    """
    own_hidden, shared_hidden = masks
    n, key_head = r.shared_keys, head // r.group
    rows = r.query[0, head].to(buffer.dtype) * r.scaling
    keys, values = r.keys[0, key_head].to(buffer.dtype), r.values[0, key_head].to(buffer.dtype)
    bounds = [0, *torch.tensor(r.lengths).cumsum(0).tolist()]
    for start in range(0, len(rows), len(buffer)):
        stop = min(start + len(buffer), len(rows))
        part = buffer[: stop - start]
        torch.mm(rows[start:stop], keys.T, out=part)
        part[:, n:].masked_fill_(own_hidden[start:stop], float("-inf"))
        if shared_hidden is not None:
            part[:, :n].masked_fill_(shared_hidden[start:stop], float("-inf"))
        torch.softmax(part, dim=-1, out=part)
        torch.mm(part, values, out=output[start:stop])
        for question, (first, last) in enumerate(pairwise(bounds)):
            first, last = max(first, start), min(last, stop)
            if first < last:
                best = part[first - start : last - start, :n].amax(0)
                torch.maximum(scores[question], best, out=scores[question])
