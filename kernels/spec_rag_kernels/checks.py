"""Checks of arguments that the operators share. Every message names the argument, what it is and what it should be."""

from collections.abc import Sequence

import torch
from torch import Tensor

SUPPORTED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | None], meaning: str) -> None:
    """Refuse `tensor` unless it has this `shape`; None stands for any positive length."""
    fits = tensor.ndim == len(shape) and all(
        have > 0 if want is None else have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be {meaning}, here [{wanted}]")


def check_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Refuse a tensor of another dtype."""
    if tensor.dtype != dtype:
        raise ValueError(f"{name} is {tensor.dtype}; it must be {dtype}")


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """Refuse a tensor on another device."""
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}; it must be on {device}, where the first tensor is")


def check_float(name: str, tensor: Tensor) -> None:
    """float64 passes: the torch path and the naive one compute it as it is."""
    if tensor.dtype not in (*SUPPORTED_DTYPES, torch.float64):
        raise ValueError(f"{name} is {tensor.dtype}; it must be float32, float16, bfloat16 or float64")


def check_mask(name: str, mask: Tensor | None, shape: Sequence[int], device: torch.device, meaning: str) -> None:
    """Refuse a mask unless it is None, or bool of this shape on this device."""
    if mask is not None:
        check_shape(name, mask, shape, meaning)
        check_dtype(name, mask, torch.bool)
        check_device(name, mask, device)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")


def check_positive(name: str, value: float | None) -> None:
    """Refuse a number that is not above zero; None passes."""
    if value is not None and not value > 0:
        raise ValueError(f"{name} is {value}; it must be positive or None")


def check_grouped_heads(query_heads: int, key_heads: int) -> None:
    """Refuse query heads that no whole number of KV heads can share."""
    if query_heads % key_heads:
        raise ValueError(
            f"query has {query_heads} heads and key has {key_heads}; the first must be a multiple of the second"
        )


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What the torch paths compute in: float32, or float64 for float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
