"""questions_attention as the formula says it, with every probability in memory. The truth that tests compare with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spec_rag_kernels.checks import compute_dtype


def questions_attention_naive(
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
    dtype = compute_dtype(query)
    heads = query.shape[1]
    keys = torch.cat([key, own_key], dim=2).to(dtype).repeat_interleave(heads // key.shape[1], dim=1)
    values = torch.cat([value, own_value], dim=2).to(dtype).repeat_interleave(heads // key.shape[1], dim=1)
    logits = torch.einsum("bhid,bhkd->bhik", query.to(dtype), keys) * scaling
    logits = logits.masked_fill(~seen, float("-inf"))
    probabilities = logits.softmax(-1)
    output = torch.einsum("bhik,bhkd->bhid", probabilities, values).to(query.dtype)
    if not with_scores:
        return output, None
    shared = probabilities[0, :, :, : key.shape[2]]
    return output, torch.stack([rows.amax(1) for rows in torch.split(shared, list(lengths), dim=1)])
