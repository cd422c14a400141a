"""The device that tests marked `gpu` run on: CUDA, or what SPEC_RAG_TEST_DEVICE names.

On "cpu" the same tests run small, the kernels on Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("SPEC_RAG_TEST_DEVICE", "cuda")
ON_GPU = DEVICE != "cpu"
_MISSING = ON_GPU and not torch.cuda.is_available()

on_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(_MISSING, reason="needs a GPU (SPEC_RAG_TEST_DEVICE=cpu TRITON_INTERPRET=1 runs it small)"),
]
only_on_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU: there is nothing like it on a CPU")
