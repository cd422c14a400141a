"""questions_attention against a softmax with all probabilities in memory: time and working memory in one process.

python kernels/benchmarks/questions_attention.py [--tokens 16384] [--lengths 24,10,9,12] [--device cpu] [--repeats 11]
"""

from functools import partial
from typing import Any

import torch
from measure import Calls, Shape, compare
from spec_rag_kernels import questions_attention


def calls(shape: Shape, tokens: int, options: dict[str, Any], lengths: str = "24,10,9,12") -> Calls:
    question_lengths = [int(length) for length in lengths.split(",")]
    width = sum(question_lengths)
    query = torch.randn(1, shape.heads, width, shape.dim, **options)
    key, value = (torch.randn(1, shape.key_heads, tokens, shape.dim, **options) for _ in range(2))
    own_key, own_value = (torch.randn(1, shape.key_heads, width, shape.dim, **options) for _ in range(2))
    run = partial(questions_attention, query, key, value, own_key, own_value, question_lengths, scaling=shape.dim**-0.5)
    return {
        "questions_attention": run,
        "materialized": partial(run, backend="naive"),
        "output without scores": partial(run, with_scores=False),
    }


if __name__ == "__main__":
    compare(__doc__, calls, "materialized", tokens=16384, lengths="24,10,9,12")
