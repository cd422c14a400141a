"""Four tensor operators for draft-based approximate inference (arXiv 2506.08373), each with Triton and torch backends.

- `window_scores`: attention of a query window, reduced to one importance per key.
- `vertical_slash_attention`: sparse causal attention for the prefill.
- `gather_kv`: compaction of the kept keys and values.
- `questions_attention`: attention of several questions over shared documents, with scores per key.

The operators take tensors only and compute no gradients. Importing the package does not import triton.
"""

from spec_rag_kernels.backend import BackendError
from spec_rag_kernels.gather_kv import gather_kv
from spec_rag_kernels.questions_attention import questions_attention
from spec_rag_kernels.vertical_slash_attention import vertical_slash_attention
from spec_rag_kernels.window_scores import window_scores

__all__ = ["BackendError", "gather_kv", "questions_attention", "vertical_slash_attention", "window_scores"]
