"""gather_kv against torch.gather with an expanded index: time and working memory in one process.

python kernels/benchmarks/gather_kv.py [--tokens 16384] [--kept 1024] [--device cpu] [--repeats 11]
"""

from typing import Any

import torch
from measure import Calls, Shape, compare
from spec_rag_kernels import gather_kv


def calls(shape: Shape, tokens: int, options: dict[str, Any], kept: int = 1024) -> Calls:
    key, value = (torch.randn(1, shape.key_heads, tokens, shape.dim, **options) for _ in range(2))
    order = torch.rand(1, shape.key_heads, tokens, device=key.device).argsort(dim=-1)
    positions = order[..., :kept].sort(dim=-1).values
    index = positions[..., None].expand(-1, -1, -1, shape.dim)
    return {
        "gather_kv": lambda: gather_kv(key, value, positions),
        "materialized": lambda: (key.gather(2, index), value.gather(2, index)),
    }


if __name__ == "__main__":
    compare(__doc__, calls, "materialized", tokens=16384, kept=1024)
