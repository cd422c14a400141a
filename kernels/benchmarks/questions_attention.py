"""questions_attention beside a softmax that holds every probability, in one process: seconds and working memory.

python kernels/benchmarks/questions_attention.py [--keys 16384] [--lengths 24,10,9,12] [--device cpu] [--repeats 11]
"""

import torch
from measure import arguments, compared, conditions, tensor_options
from spec_rag_kernels import questions_attention


def main() -> None:
    a = arguments(__doc__, 11, heads=9, key_heads=3, keys=16384, lengths="24,10,9,12", dim=64)
    options = tensor_options(a)
    lengths = [int(length) for length in a.lengths.split(",")]
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
    print(f"{a.heads} heads, {a.key_heads} KV heads, {a.keys} keys, questions of {a.lengths} tokens, dim {a.dim}, "
          f"{conditions(a)}")  # fmt: skip
    print(compared(calls, "materialised", a))


if __name__ == "__main__":
    main()
