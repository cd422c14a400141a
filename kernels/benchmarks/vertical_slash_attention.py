"""vertical_slash_attention against torch's dense causal attention: time and working memory in one process.

python kernels/benchmarks/vertical_slash_attention.py [--tokens 16384] [--vertical 1024] [--slash 1024] [--repeats 3]
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from measure import Calls, Shape, compare
from spec_rag_kernels import vertical_slash_attention


def calls(shape: Shape, tokens: int, options: dict[str, Any], vertical: int = 1024, slash: int = 1024) -> Calls:
    query = torch.randn(1, shape.heads, tokens, shape.dim, **options)
    key, value = (torch.randn(1, shape.key_heads, tokens, shape.dim, **options) for _ in range(2))
    # Evenly spaced, as the roofline assumes.
    columns = torch.arange(vertical, device=query.device) * tokens // vertical
    columns = columns.expand(1, shape.key_heads, -1).contiguous()
    return {
        "vertical_slash_attention": partial(
            vertical_slash_attention, query, key, value, columns=columns, slash=slash, scaling=shape.dim**-0.5
        ),
        "SDPA, dense, causal": partial(
            F.scaled_dot_product_attention, query, key, value, is_causal=True, enable_gqa=True
        ),
    }


if __name__ == "__main__":
    compare(__doc__, calls, "SDPA, dense, causal", tokens=16384, vertical=1024, slash=1024)
