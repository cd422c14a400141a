"""questions_attention on a GPU: torch's fused attention for the output, `window_scores` for the scores."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from spec_rag_kernels.window_scores import window_scores


def questions_attention_triton(
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
    output = F.scaled_dot_product_attention(
        query,
        torch.cat([key, own_key], dim=2),
        torch.cat([value, own_value], dim=2),
        attn_mask=seen,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    if not with_scores:
        return output, None
    # as a batch with the questions' tokens padded on the right by their last, which the mask leaves out
    longest = max(lengths)
    size = torch.tensor(lengths, device=query.device)[:, None]
    step = torch.arange(longest, device=query.device)
    places = size.cumsum(0) - size + torch.minimum(step, size - 1)
    scores = window_scores(
        query[0][:, places].transpose(0, 1).contiguous(),
        key,
        own_key=own_key[0][:, places].transpose(0, 1).contiguous(),
        scaling=scaling,
        query_mask=step < size,
        backend="triton",
    )
    return output, scores
