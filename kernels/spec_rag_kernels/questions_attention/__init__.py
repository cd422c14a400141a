"""Attention of several questions over the same documents, and what each of them looks at most.

This room checks the arguments and picks the backend; the formula is in `naive.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spec_rag_kernels.backend import choose_backend
from spec_rag_kernels.checks import check_device, check_dtype, check_float, check_grouped_heads, check_mask, check_shape

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
    """Attend from questions that stand behind each other to shared keys and to their own earlier tokens.

    Question j is the `lengths[j]` queries after those of the questions before it. Each of its queries sees all n shared
    keys, and of the own keys those of the same question up to itself; no question sees another. The scores are the most
    that any query of a question attends to each shared key.

    Shapes, with h query heads, kv KV heads (h a multiple), w queries in all, n shared keys, d the head dimension:
      query [1, h, w, d]; key, value [1, kv, n, d]; own_key, own_value [1, kv, w, d]; all of one dtype (float32,
      float16, bfloat16; float64 in the torch paths) and device; lengths positive, with sum w.
      hidden bool [w, n]: the shared keys that a query does not see, such as those outside a sliding window. With it the
        torch path runs, on a GPU too.

    Returns the attention's output [1, h, w, d] in query's dtype, and the scores float32 [questions, h, n] (float64 for
    float64), or None without `with_scores`. Working memory in torch is one head's chunk of probabilities.

    Raises ValueError naming the argument for wrong shapes, dtypes and devices, BackendError (a ValueError) for a
    `backend` ("triton", "torch", "naive") that cannot run.
    """
    check_shape("query", query, [1, None, None, None], "[1, heads, queries, dim]")
    check_float("query", query)
    _, heads, width, dim = query.shape
    check_shape("key", key, [1, None, None, dim], "[1, KV heads, keys, dim]")
    check_grouped_heads(heads, key.shape[1])
    check_shape("value", value, key.shape, "of key's shape")
    for name, own in (("own_key", own_key), ("own_value", own_value)):
        check_shape(name, own, [1, key.shape[1], width, dim], "[1, KV heads, queries, dim]")
    for name, tensor in (("key", key), ("value", value), ("own_key", own_key), ("own_value", own_value)):
        check_dtype(name, tensor, query.dtype)
        check_device(name, tensor, query.device)
    check_mask("hidden", hidden, [width, key.shape[2]], query.device, "[queries, keys]")
    if any(length < 1 for length in lengths) or sum(lengths) != width:
        raise ValueError(f"lengths is {list(lengths)}; it must be positive and sum to the {width} queries")
    chosen = choose_backend("questions_attention", backend, {"query": query, "key": key})
    if chosen == "triton" and hidden is not None:
        chosen = "torch"
    seen = visible(lengths, key.shape[2], query.device)
    if hidden is not None:
        seen[:, : key.shape[2]] &= ~hidden
    with torch.no_grad():
        if chosen == "triton":
            from spec_rag_kernels.questions_attention.triton import questions_attention_triton as run
        elif chosen == "naive":
            from spec_rag_kernels.questions_attention.naive import questions_attention_naive as run
        else:
            from spec_rag_kernels.questions_attention.chunked import questions_attention_chunked as run
        return run(query, key, value, own_key, own_value, lengths, seen, scaling, with_scores)


def visible(lengths: Sequence[int], keys: int, device: torch.device) -> Tensor:
    """bool [w, n + w]: which keys each query sees, as far as the questions' lengths say."""
    question = torch.arange(len(lengths), device=device).repeat_interleave(torch.tensor(lengths, device=device))
    own = (question[:, None] == question) & torch.ones(
        len(question), len(question), dtype=torch.bool, device=device
    ).tril()
    return torch.cat([torch.ones(len(question), keys, dtype=torch.bool, device=device), own], dim=1)
