"""questions_attention beside a softmax that holds every probability, in one process: seconds and working memory.

python kernels/benchmarks/questions_attention.py [--keys 16384] [--lengths 24,10,9,12] [--device cpu] [--repeats 11]
"""

import argparse

import torch
from measure import median_seconds, table, working_bytes
from spec_rag_kernels import questions_attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--key-heads", type=int, default=3)
    parser.add_argument("--keys", type=int, default=16384)
    parser.add_argument("--lengths", default="24,10,9,12", help="tokens of each question")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=11)
    a = parser.parse_args()
    options = {"device": a.device, "dtype": getattr(torch, a.dtype)}
    lengths = [int(length) for length in a.lengths.split(",")]
    torch.manual_seed(0)
    query = torch.randn(1, a.heads, sum(lengths), a.dim, **options)
    key, value = (torch.randn(1, a.key_heads, a.keys, a.dim, **options) for _ in range(2))
    own_key, own_value = (torch.randn(1, a.key_heads, sum(lengths), a.dim, **options) for _ in range(2))
    given = (query, key, value, own_key, own_value, lengths)
    scaling = a.dim**-0.5
    calls = {
        "materialised": lambda: questions_attention(*given, scaling=scaling, backend="naive"),
        "questions_attention": lambda: questions_attention(*given, scaling=scaling),
        "output alone": lambda: questions_attention(*given, scaling=scaling, with_scores=False),
    }
    torch.testing.assert_close(calls["questions_attention"](), calls["materialised"](), atol=1e-3, rtol=1e-3)
    seconds = median_seconds(calls, a.repeats)
    held = {name: working_bytes(call) for name, call in calls.items()} if a.device == "cpu" else {}
    base = "materialised"
    print(f"{a.heads} heads, {a.key_heads} KV heads, {a.keys} keys, questions of {a.lengths} tokens, dim {a.dim}, "
          f"{a.dtype}, {a.device}, {torch.get_num_threads()} threads, median of {a.repeats}")  # fmt: skip
    rows = [
        [name, f"{1e3 * seconds[name]:.2f}", f"{seconds[name] / seconds[base]:.2f}"]
        + ([f"{held[name] / 1e6:.2f}"] if held else ["-"])
        for name in calls
    ]
    print(table(["", "ms", "time / base", "working MB"], rows))


if __name__ == "__main__":
    main()
