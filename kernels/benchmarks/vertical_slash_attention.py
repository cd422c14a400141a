"""vertical_slash_attention beside torch's causal attention, in one process: seconds, and the share of pairs computed.

python kernels/benchmarks/vertical_slash_attention.py [--tokens 16384] [--vertical 1024] [--slash 1024] [--repeats 3]
"""

import argparse

import torch
import torch.nn.functional as F
from measure import median_seconds, table
from spec_rag_kernels import vertical_slash_attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--key-heads", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--vertical", type=int, default=1024)
    parser.add_argument("--slash", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    options = {"device": a.device, "dtype": getattr(torch, a.dtype)}
    torch.manual_seed(0)
    query = torch.randn(1, a.heads, a.tokens, a.dim, **options)
    key, value = (torch.randn(1, a.key_heads, a.tokens, a.dim, **options) for _ in range(2))
    columns = torch.stack([torch.randperm(a.tokens)[: a.vertical] for _ in range(a.key_heads)])[None].to(a.device)
    group = a.heads // a.key_heads
    repeated_key, repeated_value = (tensor.repeat_interleave(group, dim=1) for tensor in (key, value))
    calls = {
        "sdpa, keys repeated before": lambda: F.scaled_dot_product_attention(
            query, repeated_key, repeated_value, is_causal=True
        ),
        "sdpa, enable_gqa": lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True),
        "vertical_slash_attention": lambda: vertical_slash_attention(
            query, key, value, columns=columns, slash=a.slash, scaling=a.dim**-0.5
        ),
    }
    with torch.no_grad():
        seconds = median_seconds(calls, a.repeats)
    base = min(seconds["sdpa, keys repeated before"], seconds["sdpa, enable_gqa"])
    print(f"{a.heads} heads, {a.key_heads} KV heads, {a.tokens} tokens, vertical {a.vertical}, slash {a.slash}, "
          f"dim {a.dim}, {a.dtype}, {a.device}, {torch.get_num_threads()} threads, median of {a.repeats}")  # fmt: skip
    rows = [[name, f"{seconds[name]:.3f}", f"{base / seconds[name]:.2f}"] for name in calls]
    print(table(["", "seconds", "times faster"], rows))
    print(f"pairs: {pairs_share(columns, a.tokens, a.slash):.3f} of the causal ones")


def pairs_share(columns: torch.Tensor, tokens: int, slash: int) -> float:
    """The pairs of query and key that are in a column or in the band, as a share of all causal pairs."""
    band = sum(min(query + 1, slash) for query in range(tokens))
    outside = (tokens - columns.flatten() - slash).clamp_(min=0).sum().item() / columns[..., 0].numel()
    return (band + outside) / (tokens * (tokens + 1) / 2)


if __name__ == "__main__":
    main()
