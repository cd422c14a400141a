"""Reference implementation of window_scores with all probabilities in memory, for tests."""

import torch
from torch import Tensor

from spec_rag_kernels.checks import compute_dtype
from spec_rag_kernels.window_scores.request import WindowScoresRequest


def window_scores_naive(request: WindowScoresRequest) -> Tensor:
    """[b, h, n], [b, kv, n] or [b, n] in float32, or in float64 for float64."""
    r = request
    dtype = compute_dtype(r.query)
    batch, heads, window, _ = r.query.shape
    keys = r.key.shape[2]
    repeated_key = r.key.to(dtype).repeat_interleave(r.group, dim=1)
    logits = torch.einsum("bhid,bhkd->bhik", r.query.to(dtype), repeated_key) * r.scaling
    if r.softcap is not None:
        logits = r.softcap * torch.tanh(logits / r.softcap)
    logits = logits.masked_fill(~_visible(r), float("-inf"))
    if r.sinks is not None:
        sinks = r.sinks.to(dtype).view(1, heads, 1, 1).expand(batch, heads, window, 1)
        logits = torch.cat([logits, sinks], dim=-1)
    probabilities = torch.softmax(logits, dim=-1).masked_fill(logits == float("-inf"), 0.0)[..., :keys]
    if r.row_weights is not None:
        weights = r.row_weights.to(dtype)[:, None, :, None]
        probabilities = torch.where(weights > 0, probabilities * weights, 0.0)
    scores = _reduce(probabilities, 2, r.reduce_queries)
    if r.reduce_heads == "all":
        return _reduce(scores, 1, r.head_reduction)
    if r.reduce_heads == "kv":
        return _reduce(scores.view(batch, -1, r.group, keys), 2, r.head_reduction)
    return scores


def _visible(r: WindowScoresRequest) -> Tensor:
    """bool [b or 1, 1, w, n]: the keys that each query of the window attends to."""
    window, keys, device = r.query.shape[2], r.key.shape[2], r.query.device
    distance = torch.arange(keys - window, keys, device=device)[:, None] - torch.arange(keys, device=device)
    visible = distance[None, None] >= 0
    if r.sliding_window is not None:
        visible = visible & (distance < r.sliding_window)
    return visible if r.key_mask is None else visible & r.key_mask[:, None, None, :]


def _reduce(values: Tensor, dim: int, reduction: str) -> Tensor:
    return values.amax(dim) if reduction == "max" else values.sum(dim)
