"""questions_attention on a GPU: torch's fused attention for the output, `window_scores` in Triton for the scores."""

import torch
from torch import Tensor

from spec_rag_kernels.questions_attention.chunked import fused_output
from spec_rag_kernels.questions_attention.request import QuestionsRequest
from spec_rag_kernels.window_scores import window_scores


def questions_attention_triton(request: QuestionsRequest) -> tuple[Tensor, Tensor | None]:
    """[1, h, w, d], and [questions, h, n] or None; `hidden` is not supported."""
    r = request
    output = fused_output(r)
    if not r.with_scores:
        return output, None
    # Moving a question's own keys directly behind the shared keys makes it a causal window. `keys` is a copy.
    n, keys, start, scores = r.shared_keys, r.keys, 0, []
    for length in r.lengths:
        stop = start + length
        keys[:, :, n : n + length] = r.own_key[:, :, start:stop]
        window = r.query[:, :, start:stop]
        scores.append(window_scores(window, keys[:, :, : n + length], scaling=r.scaling, backend="triton")[..., :n])
        start = stop
    return output, torch.cat(scores)
