"""Which implementation of an operator runs: the argument, else the environment variable, else what the device is
best at.

Knows where tensors live and what triton can do with them; knows nothing of what the operators compute.
"""

import importlib.util
import os
from collections.abc import Mapping
from functools import cache
from typing import Literal

from torch import Tensor

from spec_rag_kernels.checks import SUPPORTED_DTYPES

Backend = Literal["triton", "torch", "naive"]
BACKENDS: tuple[Backend, ...] = ("triton", "torch", "naive")
ENVIRONMENT_VARIABLE = "SPEC_RAG_KERNELS"
TRITON_MAX_HEAD_DIM = 256


class BackendError(ValueError):
    """A backend was asked for by hand that cannot run here; the message says why and what to do instead."""


def choose_backend(operator: str, argument: str | None, tensors: Mapping[str, Tensor]) -> Backend:
    """The backend for one call of `operator` on the named `tensors`.

    `argument` (the call's `backend=`) wins over SPEC_RAG_KERNELS; with neither, Triton runs on CUDA and ROCm devices
    where it is installed and supports the tensors, and the chunked torch path everywhere else. Raises BackendError
    when a backend asked for by hand is unknown or cannot run.
    """
    if argument is not None:
        asked, source = argument, "backend="
    else:
        asked, source = os.environ.get(ENVIRONMENT_VARIABLE, ""), f"{ENVIRONMENT_VARIABLE}="
    if not asked:
        on_gpu = all(tensor.is_cuda for tensor in tensors.values())
        return "triton" if on_gpu and _why_not_triton(tensors) is None else "torch"
    if asked not in BACKENDS:
        raise BackendError(
            f"{operator}: {source}{asked!r} is no backend; choose one of {', '.join(map(repr, BACKENDS))}"
        )
    if asked == "triton" and (reason := _why_not_triton(tensors)) is not None:
        way_out = f"leave out {source.rstrip('=')}" if argument is not None else f"unset {ENVIRONMENT_VARIABLE}"
        raise BackendError(f"{operator}: {source}'triton' cannot run: {reason}; {way_out} or choose 'torch'")
    return asked


def _why_not_triton(tensors: Mapping[str, Tensor]) -> str | None:
    """What keeps Triton from running on these tensors, or None. Tensors on the CPU need Triton's interpreter."""
    if not _triton_installed():
        return "the package triton is not installed (pip install triton)"
    for name, tensor in tensors.items():
        if not tensor.is_cuda and not interpreting():
            return (
                f"{name} is on {tensor.device}, and Triton needs a CUDA or ROCm device (TRITON_INTERPRET=1 for tests)"
            )
        if tensor.is_floating_point() and tensor.dtype not in SUPPORTED_DTYPES:
            return f"{name} is {tensor.dtype}, and the kernels take float32, float16 and bfloat16"
        if tensor.is_floating_point() and tensor.ndim == 4 and tensor.shape[-1] > TRITON_MAX_HEAD_DIM:
            return f"{name} has head dimension {tensor.shape[-1]}, and the kernels go up to {TRITON_MAX_HEAD_DIM}"
    return None


@cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether triton would run its kernels on the CPU, in Python."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")
