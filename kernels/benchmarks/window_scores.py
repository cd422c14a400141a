"""window_scores beside the materialised softmax-and-reduce, in one process: seconds and working memory.

    python kernels/benchmarks/window_scores.py [--keys 8192] [--window 64] [--device cpu] [--repeats 21]

The base line is what the paper's code does: repeat the keys for the query heads, keep every probability in float32,
reduce.
"""

import argparse

import torch
from measure import median_seconds, table, working_bytes
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--key-heads", type=int, default=3)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--keys", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=21)
    a = parser.parse_args()
    options = {"device": a.device, "dtype": getattr(torch, a.dtype)}
    torch.manual_seed(0)
    query = torch.randn(1, a.heads, a.window, a.dim, **options)
    key = torch.randn(1, a.key_heads, a.keys, a.dim, **options)
    scaling = a.dim**-0.5
    calls = {
        "materialised": lambda: materialised(query, key, scaling),
        "window_scores": lambda: window_scores(query, key, scaling=scaling, reduce_heads="kv"),
    }
    torch.testing.assert_close(calls["window_scores"](), calls["materialised"](), atol=1e-3, rtol=1e-2)
    with torch.no_grad():
        seconds = median_seconds(calls, a.repeats)
        held = {name: working_bytes(call) for name, call in calls.items()} if a.device == "cpu" else {}
    base = "materialised"
    print(f"{a.heads} heads, {a.key_heads} KV heads, window {a.window}, {a.keys} keys, dim {a.dim}, "
          f"{a.dtype}, {a.device}, {torch.get_num_threads()} threads, median of {a.repeats}")  # fmt: skip
    rows = [
        [name, f"{1e3 * seconds[name]:.2f}", f"{seconds[name] / seconds[base]:.2f}"]
        + ([f"{held[name] / 1e6:.2f}", f"{held[base] / held[name]:.1f}"] if held else ["-", "-"])
        for name in calls
    ]
    print(table(["", "ms", "time / base", "working MB", "base / MB"], rows))


if __name__ == "__main__":
    main()
