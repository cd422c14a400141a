"""window_scores as the formula says it, with every probability in memory. The truth that tests compare with."""

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
    all_keys = r.key.expand(batch, -1, -1, -1)
    if r.own_key is not None:
        all_keys = torch.cat([all_keys, r.own_key], dim=2)
    all_keys = all_keys.to(dtype).repeat_interleave(r.group, dim=1)
    logits = torch.einsum("bhid,bhkd->bhik", r.query.to(dtype), all_keys) * r.scaling
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
    """bool [b, 1, w, n + w']: which keys each query of the window sees."""
    batch, _, window, _ = r.query.shape
    keys = r.key.shape[2]
    device = r.query.device
    position = torch.arange(keys - window, keys, device=device)[:, None]
    key_position = torch.arange(keys, device=device)[None, :]
    visible = torch.ones(batch, 1, window, keys, dtype=torch.bool, device=device)
    if r.own_key is None:
        visible &= key_position <= position
    if r.sliding_window is not None:
        visible &= position - key_position < r.sliding_window
    if r.key_mask is not None:
        visible &= r.key_mask[:, None, None, :]
    if r.own_key is None:
        return visible
    own = r.own_key.shape[2]
    own_visible = torch.ones(batch, 1, window, own, dtype=torch.bool, device=device)
    own_visible &= torch.arange(own, device=device) <= torch.arange(own - window, own, device=device)[:, None]
    if r.seen_own_keys is not None:
        own_visible &= r.seen_own_keys[:, None, None, :]
    return torch.cat([visible, own_visible], dim=-1)


def _reduce(values: Tensor, dim: int, reduction: str) -> Tensor:
    return values.amax(dim) if reduction == "max" else values.sum(dim)
