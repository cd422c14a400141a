"""window_scores against the materialized softmax and reduction: time and working memory in one process.

    python kernels/benchmarks/window_scores.py [--tokens 8192] [--window 64] [--device cpu] [--repeats 11]

The baseline follows the paper's code: repeat the keys per query head, keep all probabilities in float32, reduce.
"""

from typing import Any

import torch
from measure import Calls, Shape, compare
from spec_rag_kernels import window_scores
from torch import Tensor


def materialized(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """[b, kv, n]: the maximum over the window and the query heads of a KV head, with all probabilities in memory."""
    _batch, heads, window, _ = query.shape
    key_heads = key.shape[1]
    repeated = key[:, :, None].expand(-1, -1, heads // key_heads, -1, -1).flatten(1, 2)
    logits = torch.matmul(query, repeated.transpose(2, 3)) * scaling
    logits[..., -window:] += torch.full((window, window), torch.finfo(logits.dtype).min, device=key.device).triu_(1)
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)
    return probabilities.amax(2).unflatten(1, (key_heads, -1)).amax(2)


def calls(shape: Shape, tokens: int, options: dict[str, Any], window: int = 64) -> Calls:
    query = torch.randn(1, shape.heads, window, shape.dim, **options)
    key = torch.randn(1, shape.key_heads, tokens, shape.dim, **options)
    scaling = shape.dim**-0.5
    return {
        "window_scores": lambda: window_scores(query, key, scaling=scaling, reduce_heads="kv"),
        "materialized": lambda: materialized(query, key, scaling),
    }


if __name__ == "__main__":
    compare(__doc__, calls, "materialized", tokens=8192, window=64)
