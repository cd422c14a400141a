"""Backend selection: the `backend=` argument, else the environment variable, else the best backend for the device."""

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
    """The requested backend is unknown or cannot run; the message gives the reason and an alternative."""


def choose_backend(operator: str, argument: str | None, tensors: Mapping[str, Tensor]) -> Backend:
    """Select the backend for one call of `operator` with the named `tensors`.

    `argument` (the call's `backend=`) overrides SPEC_RAG_KERNELS. Without either, the default is Triton for CUDA and
    ROCm tensors that it supports, if it is installed, and the torch path otherwise.

    Raises:
        BackendError: the requested backend is unknown or cannot run.
    """
    if argument is not None:
        requested, source = argument, "backend="
    else:
        requested, source = os.environ.get(ENVIRONMENT_VARIABLE, ""), f"{ENVIRONMENT_VARIABLE}="
    if not requested:
        all_on_gpu = all(tensor.is_cuda for tensor in tensors.values())
        return "triton" if all_on_gpu and _triton_obstacle(tensors) is None else "torch"
    if requested not in BACKENDS:
        raise BackendError(
            f"{operator}: {source}{requested!r} is not a backend; choose one of {', '.join(map(repr, BACKENDS))}"
        )
    if requested == "triton" and (obstacle := _triton_obstacle(tensors)) is not None:
        remedy = f"leave out {source.rstrip('=')}" if argument is not None else f"unset {ENVIRONMENT_VARIABLE}"
        raise BackendError(f"{operator}: {source}'triton' cannot run: {obstacle}; {remedy} or choose 'torch'")
    return requested


def _triton_obstacle(tensors: Mapping[str, Tensor]) -> str | None:
    """The reason why Triton cannot run on these tensors; None if it can. CPU tensors need Triton's interpreter."""
    if not _triton_installed():
        return "the package triton is not installed (pip install triton)"
    for name, tensor in tensors.items():
        if not tensor.is_cuda and not interpreting():
            return f"{name} is on {tensor.device}, and Triton needs a CUDA or ROCm device (TRITON_INTERPRET=1 in tests)"
        if tensor.is_floating_point() and tensor.dtype not in SUPPORTED_DTYPES:
            return f"{name} is {tensor.dtype}, and the kernels support float32, float16 and bfloat16"
        if tensor.is_floating_point() and tensor.ndim == 4 and tensor.shape[-1] > TRITON_MAX_HEAD_DIM:
            return f"{name} has head dimension {tensor.shape[-1]}, and the kernels support up to {TRITON_MAX_HEAD_DIM}"
    return None


@cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether TRITON_INTERPRET makes triton run kernels on the CPU, in Python."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")
