"""window_scores beside the materialised softmax-and-reduce, in one process: seconds and working memory.

    python kernels/benchmarks/window_scores.py [--keys 8192] [--window 64] [--device cpu] [--repeats 21]

The base line is what the paper's code does: repeat the keys for the query heads, keep every probability in float32,
reduce.
"""

import torch
from measure import arguments, compared, conditions, tensor_options
from spec_rag_kernels import window_scores
from torch import Tensor


def materialised(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """[b, kv, n]: the maximum over the window and over the query heads of a KV head, with all probabilities in
    memory.
    """
    _batch, heads, window, _ = query.shape
    key_heads = key.shape[1]
    repeated = key[:, :, None].expand(-1, -1, heads // key_heads, -1, -1).flatten(1, 2)
    logits = torch.matmul(query, repeated.transpose(2, 3)) * scaling
    logits[..., -window:] += torch.full((window, window), torch.finfo(logits.dtype).min, device=key.device).triu_(1)
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)
    return probabilities.amax(2).unflatten(1, (key_heads, -1)).amax(2)


def main() -> None:
    a = arguments(__doc__, 21, heads=9, key_heads=3, window=64, keys=8192, dim=64)
    options = tensor_options(a)
    query = torch.randn(1, a.heads, a.window, a.dim, **options)
    key = torch.randn(1, a.key_heads, a.keys, a.dim, **options)
    scaling = a.dim**-0.5
    calls = {
        "materialised": lambda: materialised(query, key, scaling),
        "window_scores": lambda: window_scores(query, key, scaling=scaling, reduce_heads="kv"),
    }
    torch.testing.assert_close(calls["window_scores"](), calls["materialised"](), atol=1e-3, rtol=1e-2)
    print(f"{a.heads} heads, {a.key_heads} KV heads, window {a.window}, {a.keys} keys, dim {a.dim}, "
          f"{conditions(a)}")  # fmt: skip
    print(compared(calls, "materialised", a))


if __name__ == "__main__":
    main()
