"""Attention as its formula says, in float64 and with every probability in memory: what scores are compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(
    query: Tensor,
    key: Tensor,
    scaling: float,
    *,
    softcap: float | None = None,
    sliding_window: int | None = None,
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    hidden: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """float64 [batch, heads, queries, keys]; the queries are the last of the keys, and causal.

    Args:
        hidden: bool, what is not seen besides.
        positions: int64 [keys], by which a sliding window counts; None counts keys.
    """
    group = query.shape[1] // key.shape[1]
    keys = key.double().repeat_interleave(group, dim=1)
    logits = torch.einsum("bhid,bhkd->bhik", query.double(), keys) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    count = key.shape[2]
    places = torch.arange(count)
    seen = places[-query.shape[2] :, None] >= places
    if sliding_window is not None:
        places = places if positions is None else positions
        seen = seen & (places[-query.shape[2] :, None] - places < sliding_window)
    seen = seen.expand(query.shape[0], 1, -1, -1)
    if key_mask is not None:
        seen = seen & key_mask[:, None, None, :]
    if hidden is not None:
        seen = seen & ~hidden
    logits = logits.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        column = sinks.double().view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        return torch.cat([logits, column], dim=-1).softmax(-1)[..., :count].nan_to_num(0.0)
    return logits.softmax(-1).nan_to_num(0.0)
