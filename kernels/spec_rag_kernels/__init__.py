"""Four operators for draft-based approximate inference, each with a Triton kernel and a fast torch path.

`window_scores` reduces the attention of a window of queries to one importance per key, `vertical_slash_attention` is
the sparse prefill, `gather_kv` compacts the kept keys and values, `questions_attention` lets several questions look at
the same documents. This package knows tensors; it knows nothing of models, prompts or caches. It computes no gradients.
Importing it does not import triton.
"""

from spec_rag_kernels.backend import BackendError
from spec_rag_kernels.gather_kv import gather_kv
from spec_rag_kernels.questions_attention import questions_attention
from spec_rag_kernels.vertical_slash_attention import vertical_slash_attention
from spec_rag_kernels.window_scores import window_scores

__all__ = ["BackendError", "gather_kv", "questions_attention", "vertical_slash_attention", "window_scores"]
