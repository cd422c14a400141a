"""Encoded passages as bytes: packed at a precision, with a checksum, and believed only where they are what they say.

This module does not know where the bytes are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from spec_rag.errors import ConfigError
from spec_rag.utils.tensor_files import tensors_from_bytes, tensors_to_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from spec_rag.compression.passages import EncodedPassage

StorageType = Literal["float32", "float16", "int8", "int4"]
"""Precision of keys and values: integers come with a scale per layer, KV head and token, int4 with its least number."""
Stored = dict[str, "Tensor"]
Shape = tuple[int, int, int, int]


def to_bytes(key: str, stored: Stored) -> bytes:
    """A safetensors file of the tensors, which names their key and checksum."""
    return tensors_to_bytes(stored, {"key": key})


def from_bytes(data: bytes, key: str, storage: StorageType, shape: Shape | None) -> Stored:
    """The tensors of a file.

    Raises:
        ValueError: they are damaged, or not what this key, precision and shape must have; the message says what.
    """
    stored, _ = tensors_from_bytes(data, key)
    if wrong := _unlike(stored, storage, shape):
        raise ValueError(wrong)
    return stored


def _unlike(stored: Stored, storage: StorageType, shape: Shape | None) -> str:
    """What is wrong with the tensors of a file for an index of that precision; "" if nothing is."""
    import torch

    kept = {"int8": torch.int8, "int4": torch.uint8}.get(storage) or getattr(torch, storage)
    beside = {"int8": ("scale",), "int4": ("scale", "least")}.get(storage, ())
    kinds = dict.fromkeys(("keys", "values"), kept)
    kinds |= {f"{side}_{name}": torch.float16 for side in ("keys", "values") for name in beside}
    if {name: tensor.dtype for name, tensor in stored.items()} != kinds:
        return f"it holds other tensors than an index of {storage}"
    whole = tuple(stored["keys"].shape)
    scales = (*whole[:3], 1)
    if any(tuple(tensor.shape) != (scales if "_" in name else whole) for name, tensor in stored.items()):
        return "its tensors do not fit together"
    if storage == "int4" and len(whole) == 4:
        whole = (*whole[:3], 2 * whole[3])
    if len(whole) != 4 or shape not in (None, whole):
        return f"it has the shape {list(whole)} and not {list(shape or ())}"
    return ""


def packed(passage: EncodedPassage, storage: StorageType) -> Stored:
    """The passage at a precision.

    Raises:
        ConfigError: "int4", which packs two numbers into a byte, and heads of an odd dimension.
    """
    import torch

    stored: Stored = {}
    for name, tensor in (("keys", passage.keys), ("values", passage.values)):
        tensor = tensor.detach().to("cpu", torch.float32)
        if storage == "int8":
            scale = _not_zero(tensor.abs().amax(dim=-1, keepdim=True) / 127)
            stored[name] = (tensor / scale.float()).round().clamp(-127, 127).to(torch.int8).contiguous()
            stored[f"{name}_scale"] = scale.contiguous()
        elif storage == "int4":
            # sixteen steps are few: they are laid between the least and the greatest number
            least = tensor.amin(dim=-1, keepdim=True).to(torch.float16)
            scale = _not_zero((tensor.amax(dim=-1, keepdim=True) - least.float()) / 15)
            stored[name] = _halved(((tensor - least.float()) / scale.float()).round().clamp(0, 15).to(torch.uint8))
            stored[f"{name}_scale"], stored[f"{name}_least"] = scale.contiguous(), least.contiguous()
        else:
            stored[name] = tensor.to(getattr(torch, storage)).contiguous()
    return stored


def unpacked(stored: Stored, storage: StorageType, first_layer: int = 0) -> EncodedPassage:
    """The passage that was packed, in float32 or float16."""
    from spec_rag.compression.passages import EncodedPassage

    if storage not in ("int8", "int4"):
        return EncodedPassage(stored["keys"], stored["values"], first_layer)
    restored = []
    for name in ("keys", "values"):
        whole = stored[name] if storage == "int8" else _doubled(stored[name])
        numbers = whole.float().mul_(stored[f"{name}_scale"].float())
        restored.append(numbers if storage == "int8" else numbers.add_(stored[f"{name}_least"].float()))
    return EncodedPassage(restored[0], restored[1], first_layer)


def _not_zero(scale: Tensor) -> Tensor:
    """As float16, and large enough to be divided by."""
    import torch

    return scale.clamp(min=1e-6).to(torch.float16)


def _halved(steps: Tensor) -> Tensor:
    """Numbers of 0 to 15, two in a byte: those of a vector's second half above those of its first."""
    if steps.shape[-1] % 2:
        raise ConfigError(f"storage='int4' needs heads of an even dimension, not {steps.shape[-1]}: use 'int8'.")
    low, high = steps.chunk(2, dim=-1)
    return (low | high << 4).contiguous()


def _doubled(halved: Tensor) -> Tensor:
    import torch

    return torch.cat([halved & 15, halved >> 4], dim=-1)
