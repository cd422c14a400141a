"""Reference implementation of vertical_slash_attention as masked dense attention, for tests."""

import torch
from torch import Tensor

from spec_rag_kernels.checks import compute_dtype
from spec_rag_kernels.vertical_slash_attention.request import VerticalSlashRequest


def vertical_slash_attention_naive(request: VerticalSlashRequest) -> Tensor:
    """[b, h, n, d] in query's dtype, computed in float32, or in float64 for float64."""
    r = request
    dtype = compute_dtype(r.query)
    batch, heads, tokens, _ = r.query.shape
    key = r.key.to(dtype).repeat_interleave(r.group, dim=1)
    value = r.value.to(dtype)
    if r.key_mask is not None:
        value = value.masked_fill(~r.key_mask[:, None, :, None], 0.0)
    value = value.repeat_interleave(r.group, dim=1)
    logits = torch.einsum("bhid,bhkd->bhik", r.query.to(dtype), key) * r.scaling
    if r.softcap is not None:
        logits = r.softcap * torch.tanh(logits / r.softcap)
    logits = logits.masked_fill(~_visible(r), float("-inf"))
    if r.sinks is not None:
        sinks = r.sinks.to(dtype).view(1, heads, 1, 1).expand(batch, heads, tokens, 1)
        logits = torch.cat([logits, sinks], dim=-1)
    probabilities = torch.softmax(logits, dim=-1).masked_fill(logits == float("-inf"), 0.0)[..., :tokens]
    return (probabilities @ value).to(r.query.dtype)


def _visible(r: VerticalSlashRequest) -> Tensor:
    """bool [b, h, n, n]: the keys that each query attends to."""
    batch, _, tokens, _ = r.query.shape
    key_heads = r.key.shape[1]
    position = torch.arange(tokens, device=r.query.device)
    distance = position[:, None] - position[None, :]
    is_column = torch.zeros(batch, key_heads, tokens, dtype=torch.bool, device=r.query.device)
    is_column.scatter_(2, r.sorted_columns, True)
    visible = (is_column[:, :, None, :] | (distance < r.band)) & (distance >= 0)
    if r.sliding_window is not None:
        visible &= distance < r.sliding_window
    if r.key_mask is not None:
        visible &= r.key_mask[:, None, None, :]
    return visible.repeat_interleave(r.group, dim=1)
