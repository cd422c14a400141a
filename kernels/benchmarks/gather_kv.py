"""gather_kv beside torch.gather over an expanded index, in one process: seconds and working memory.

python kernels/benchmarks/gather_kv.py [--tokens 16384] [--kept 1024] [--device cpu] [--repeats 21]
"""

import argparse

import torch
from measure import median_seconds, table, working_bytes
from spec_rag_kernels import gather_kv
from torch import Tensor


def gathered(key: Tensor, value: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The usual way: one index per number that is copied."""
    index = positions[..., None].expand(-1, -1, -1, key.shape[3])
    return key.gather(2, index), value.gather(2, index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--key-heads", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--kept", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=21)
    a = parser.parse_args()
    options = {"device": a.device, "dtype": getattr(torch, a.dtype)}
    torch.manual_seed(0)
    key, value = (torch.randn(1, a.key_heads, a.tokens, a.dim, **options) for _ in range(2))
    spoiled_key, spoiled_value = key.clone(), value.clone()
    positions = torch.stack([torch.randperm(a.tokens)[: a.kept].sort().values for _ in range(a.key_heads)])[None]
    positions = positions.to(a.device)
    calls = {
        "torch.gather": lambda: gathered(key, value, positions),
        "gather_kv": lambda: gather_kv(key, value, positions),
        "gather_kv, in place": lambda: gather_kv(spoiled_key, spoiled_value, positions, in_place=True),
    }
    torch.testing.assert_close(calls["gather_kv"](), calls["torch.gather"](), atol=0, rtol=0)
    with torch.no_grad():
        seconds = median_seconds(calls, a.repeats)
        held = {name: working_bytes(call) for name, call in calls.items()} if a.device == "cpu" else {}
    base = "torch.gather"
    print(f"{a.key_heads} KV heads, {a.tokens} tokens, {a.kept} kept, dim {a.dim}, {a.dtype}, {a.device}, "
          f"{torch.get_num_threads()} threads, median of {a.repeats}")  # fmt: skip
    rows = [
        [name, f"{1e3 * seconds[name]:.2f}", f"{seconds[name] / seconds[base]:.2f}"]
        + ([f"{held[name] / 1e6:.2f}"] if held else ["-"])
        for name in calls
    ]
    print(table(["", "ms", "time / base", "working MB"], rows))


if __name__ == "__main__":
    main()
