"""gather_kv beside torch.gather over an expanded index, in one process: seconds and working memory.

python kernels/benchmarks/gather_kv.py [--tokens 16384] [--kept 1024] [--device cpu] [--repeats 21]
"""

import torch
from measure import arguments, compared, conditions, tensor_options
from spec_rag_kernels import gather_kv
from torch import Tensor


def gathered(key: Tensor, value: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The usual way: one index per number that is copied."""
    index = positions[..., None].expand(-1, -1, -1, key.shape[3])
    return key.gather(2, index), value.gather(2, index)


def main() -> None:
    a = arguments(__doc__, 21, key_heads=8, tokens=16384, kept=1024, dim=128)
    options = tensor_options(a)
    key, value = (torch.randn(1, a.key_heads, a.tokens, a.dim, **options) for _ in range(2))
    positions = torch.stack([torch.randperm(a.tokens)[: a.kept].sort().values for _ in range(a.key_heads)])[None]
    positions = positions.to(a.device)
    calls = {
        "torch.gather": lambda: gathered(key, value, positions),
        "gather_kv": lambda: gather_kv(key, value, positions),
    }
    torch.testing.assert_close(calls["gather_kv"](), calls["torch.gather"](), atol=0, rtol=0)
    print(f"{a.key_heads} KV heads, {a.tokens} tokens, {a.kept} kept, dim {a.dim}, {conditions(a)}")
    print(compared(calls, "torch.gather", a))


if __name__ == "__main__":
    main()
