"""Attention of several questions over shared documents, with one score per question and key.

The formula is that of SpecPC's importance (arXiv 2506.08373, 3.1), with a question as the query window. The reference
implementation is in `naive.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spec_rag_kernels.backend import choose_backend
from spec_rag_kernels.questions_attention.request import QuestionsRequest

__all__ = ["questions_attention"]


def questions_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own_key: Tensor,
    own_value: Tensor,
    lengths: Sequence[int],
    *,
    scaling: float,
    hidden: Tensor | None = None,
    with_scores: bool = True,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention of concatenated questions to shared keys and causally to their own tokens.

    Question j is the `lengths[j]` queries after those of the questions before it. Its queries attend to all n shared
    keys and to the own keys of the same question up to themselves; questions do not attend to each other. A score is
    the maximum attention probability of a shared key over the queries of a question.

    Args:
        query: [1, h, w, d] with h query heads, w queries in total and d the head dimension; float32, float16 or
            bfloat16 (the torch paths also support float64).
        key: [1, kv, n, d] with kv KV heads, a divisor of h, and n shared keys; query's dtype and device.
        value: as key.
        own_key: [1, kv, w, d], of the questions' own tokens; query's dtype and device.
        own_value: as own_key.
        lengths: queries per question, positive, with sum w.
        scaling: factor of the logits.
        hidden: bool [w, n], True for shared keys that a query does not attend to, such as those outside a sliding
            window. With it the torch path runs instead of Triton.
        with_scores: False omits the scores, which is faster.
        backend: "triton", "torch" or "naive"; None selects by device.

    Returns:
        The attention output [1, h, w, d] in query's dtype, and the scores [questions, h, n] in float32 (float64 for
        float64), or None without scores. Working memory of the torch path is one chunk of one head's probabilities.

    Raises:
        ValueError: a shape, dtype, device or value is invalid; the message names the argument.
        BackendError: the backend is unknown or cannot run (a ValueError).
    """
    request = QuestionsRequest(query, key, value, own_key, own_value, lengths, scaling, hidden, with_scores)
    chosen = choose_backend("questions_attention", backend, {"query": query, "key": key})
    with torch.no_grad():
        if chosen == "naive":
            from spec_rag_kernels.questions_attention.naive import questions_attention_naive as run
        elif chosen == "triton" and hidden is None:
            from spec_rag_kernels.questions_attention.triton import questions_attention_triton as run
        else:
            from spec_rag_kernels.questions_attention.chunked import questions_attention_chunked as run
        return run(request)
