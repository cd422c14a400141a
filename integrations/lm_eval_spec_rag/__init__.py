"""spec-rag's models for lm-evaluation-harness: importing this package registers the model "spec-rag".

python -m lm_eval_spec_rag --model spec-rag --model_args target=...,kv_capacity=256 --tasks ...
"""

from __future__ import annotations

try:
    import lm_eval  # noqa: F401
except ImportError as error:
    raise ImportError('lm-evaluation-harness is missing: pip install "spec-rag[lm-eval]"') from error

from lm_eval_spec_rag.model import SpecRagLM

__all__ = ["SpecRagLM"]
