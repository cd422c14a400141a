"""Argument checks shared by the operators. Each error names the argument, its value and the requirement."""

from collections.abc import Sequence

import torch
from torch import Tensor

SUPPORTED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | None], meaning: str) -> None:
    """Require this `shape`; None stands for any positive size."""
    matches = tensor.ndim == len(shape) and all(
        size > 0 if required is None else size == required for size, required in zip(tensor.shape, shape, strict=True)
    )
    if not matches:
        required_sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be {meaning}, here [{required_sizes}]")


def check_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Require this dtype."""
    if tensor.dtype != dtype:
        raise ValueError(f"{name} is {tensor.dtype}; it must be {dtype}")


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """Require this device, the first tensor's."""
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}; it must be on {device}, the device of the first tensor")


def check_float(name: str, tensor: Tensor) -> None:
    """Require a dtype of the kernels, or float64, which the torch and naive paths support."""
    if tensor.dtype not in (*SUPPORTED_DTYPES, torch.float64):
        raise ValueError(f"{name} is {tensor.dtype}; it must be float32, float16, bfloat16 or float64")


def check_mask(name: str, mask: Tensor | None, shape: Sequence[int], device: torch.device, meaning: str) -> None:
    """Require None, or a bool tensor of this shape on this device."""
    if mask is not None:
        check_shape(name, mask, shape, meaning)
        check_dtype(name, mask, torch.bool)
        check_device(name, mask, device)


def check_sinks(sinks: Tensor | None, heads: int, device: torch.device) -> None:
    """Require None, or one attention sink logit per query head."""
    if sinks is not None:
        check_shape("sinks", sinks, [heads], "[heads]")
        check_device("sinks", sinks, device)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Require one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")


def check_positive(name: str, value: float | None) -> None:
    """Require None or a number above zero."""
    if value is not None and not value > 0:
        raise ValueError(f"{name} is {value}; it must be positive or None")


def check_grouped_heads(query_heads: int, key_heads: int) -> None:
    """Require a whole number of query heads per KV head (grouped-query attention)."""
    if query_heads % key_heads:
        raise ValueError(
            f"query has {query_heads} heads and key has {key_heads}; the first must be a multiple of the second"
        )


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The accumulation dtype of the torch paths: float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
