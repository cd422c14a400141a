"""Encoded passages as bytes: packed at a precision, with a checksum, and believed only where they are what they say.

This module does not know where the bytes are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from spec_rag.compression.passages import EncodedPassage

StorageType = Literal["float32", "float16", "int8"]
Stored = dict[str, "Tensor"]
Shape = tuple[int, int, int, int]


def to_bytes(key: str, stored: Stored) -> bytes:
    """A safetensors file of the tensors, which names their key and checksum."""
    from safetensors.torch import save

    return bytes(save(stored, metadata={"key": key, "sha256": _checksum(stored)}))


def from_bytes(data: bytes, key: str, storage: StorageType, shape: Shape | None) -> Stored:
    """The tensors of a file.

    Raises:
        ValueError: they are damaged, or not what this key, precision and shape must have; the message says what.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        metadata = _metadata(data)
        stored: Stored = load(data)
        named = metadata.get("key") == key and metadata.get("sha256") == _checksum(stored)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"it is damaged ({error})") from error
    if not named:
        raise ValueError("its checksum or key does not match")
    if wrong := _unlike(stored, storage, shape):
        raise ValueError(wrong)
    return stored


def _metadata(data: bytes) -> dict[str, Any]:
    """The metadata of a safetensors file: its header's length in eight bytes, then the header as JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found = header.get("__metadata__", {})
    return found if isinstance(found, dict) else {}


def _unlike(stored: Stored, storage: StorageType, shape: Shape | None) -> str:
    """What is wrong with the tensors of a file for an index of that precision; "" if nothing is."""
    import torch

    kinds = {"keys": getattr(torch, storage), "values": getattr(torch, storage)}
    if storage == "int8":
        kinds |= {"keys_scale": torch.float16, "values_scale": torch.float16}
    if {name: tensor.dtype for name, tensor in stored.items()} != kinds:
        return f"it holds other tensors than an index of {storage}"
    whole = tuple(stored["keys"].shape)
    scales = (*whole[:3], 1)
    if any(tuple(tensor.shape) != (scales if "scale" in name else whole) for name, tensor in stored.items()):
        return "its tensors do not fit together"
    if len(whole) != 4 or shape not in (None, whole):
        return f"it has the shape {list(whole)} and not {list(shape or ())}"
    return ""


def _checksum(stored: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(stored):
        tensor = stored[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def packed(passage: EncodedPassage, storage: StorageType) -> Stored:
    """The passage at a precision; int8 comes with a scale per layer, KV head and token."""
    import torch

    stored: Stored = {}
    for name, tensor in (("keys", passage.keys), ("values", passage.values)):
        tensor = tensor.detach().to("cpu", torch.float32)
        if storage == "int8":
            scale = tensor.abs().amax(dim=-1, keepdim=True).clamp(min=1e-8) / 127
            stored[name] = (tensor / scale).round().to(torch.int8).contiguous()
            stored[f"{name}_scale"] = scale.to(torch.float16).contiguous()
        else:
            stored[name] = tensor.to(getattr(torch, storage)).contiguous()
    return stored


def unpacked(stored: Stored) -> EncodedPassage:
    """The passage that was packed, in float32 or float16."""
    from spec_rag.compression.passages import EncodedPassage

    if "keys_scale" in stored:
        keys, values = (stored[name].float() * stored[f"{name}_scale"].float() for name in ("keys", "values"))
        return EncodedPassage(keys, values)
    return EncodedPassage(stored["keys"], stored["values"])
