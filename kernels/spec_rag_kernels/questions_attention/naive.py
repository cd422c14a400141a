"""Reference implementation of questions_attention with all probabilities in memory, for tests."""

import torch
from torch import Tensor

from spec_rag_kernels.checks import compute_dtype
from spec_rag_kernels.questions_attention.request import QuestionsRequest


def questions_attention_naive(request: QuestionsRequest) -> tuple[Tensor, Tensor | None]:
    """[1, h, w, d], and [questions, h, n] or None."""
    r = request
    dtype = compute_dtype(r.query)
    keys, values = (tensor.to(dtype).repeat_interleave(r.group, dim=1) for tensor in (r.keys, r.values))
    logits = torch.einsum("bhid,bhkd->bhik", r.query.to(dtype), keys) * r.scaling
    probabilities = logits.masked_fill(~r.visible, float("-inf")).softmax(-1)
    output = torch.einsum("bhik,bhkd->bhid", probabilities, values).to(r.query.dtype)
    if not r.with_scores:
        return output, None
    shared = probabilities[0, :, :, : r.shared_keys]
    return output, torch.stack([rows.amax(1) for rows in torch.split(shared, list(r.lengths), dim=1)])
