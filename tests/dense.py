"""Attention as its formula says, in float64 and with every probability in memory: what scores are compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spec_rag.attention.capture import AttentionCall

_SINKS = torch.tensor([1.5, -0.5, 2.0, 0.5])
# each is something that a model's attention does beside scale and softmax
TRAITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled by something else than 1/sqrt(d)": {"scaling": 0.1},
    "soft cap": {"softcap": 1.0},
    "sliding window": {"sliding_window": 12},
    "sinks": {"sinks": _SINKS},
    "all of it": {"scaling": 0.4, "softcap": 2.0, "sliding_window": 15, "sinks": _SINKS},
}


def call(tokens: int, layer: int = 0, queries: int | None = None, **traits: Any) -> AttentionCall:
    """A layer's call of 4 heads over 2 KV heads; the queries are the last of the tokens, or all of them."""
    generator = torch.Generator().manual_seed(100 * layer + tokens)
    query = torch.randn(1, 4, tokens if queries is None else queries, 16, generator=generator)
    key, value = (torch.randn(1, 2, tokens, 16, generator=generator) for _ in range(2))
    settings = {"scaling": 0.25, "softcap": None, "sliding_window": None, "sinks": None, **traits}
    return AttentionCall(layer, query, key, value, None, **settings)


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
