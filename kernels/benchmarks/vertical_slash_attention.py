"""vertical_slash_attention beside torch's causal attention, in one process: seconds, and the share of pairs computed.

python kernels/benchmarks/vertical_slash_attention.py [--tokens 16384] [--vertical 1024] [--slash 1024] [--repeats 3]
"""

import torch
import torch.nn.functional as F
from measure import arguments, conditions, median_seconds, table, tensor_options
from spec_rag_kernels import vertical_slash_attention


def main() -> None:
    a = arguments(__doc__, 3, heads=9, key_heads=3, tokens=16384, vertical=1024, slash=1024, dim=64)
    options = tensor_options(a)
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
          f"dim {a.dim}, {conditions(a)}")  # fmt: skip
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
