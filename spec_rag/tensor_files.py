"""Files of tensors that are believed only where they are what they say.

This module does not know what the tensors are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def tensors_to_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """A safetensors file of tensors on the CPU, whose metadata are `about` and a checksum."""
    from safetensors.torch import save

    return bytes(save(dict(tensors), metadata={**about, "sha256": checksum(tensors, about)}))


def tensors_from_bytes(data: bytes, key: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and its metadata.

    Args:
        data: the file.
        key: what its metadata must name as "key"; None takes any.

    Raises:
        ValueError: it is damaged, or has another key; the message says which.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        about = _metadata(data)
        tensors: dict[str, Tensor] = load(data)
        whole = about.get("sha256") == checksum(tensors, about) and key in (None, about.get("key"))
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"it is damaged ({error})") from error
    if not whole:
        raise ValueError("its checksum or key does not match")
    return tensors, about


def _metadata(data: bytes) -> dict[str, Any]:
    """The metadata of a safetensors file: its header's length in eight bytes, then the header as JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found = header.get("__metadata__", {})
    return found if isinstance(found, dict) else {}


def checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """A digest of names, types, shapes and values, and of the metadata but the key, which is compared itself."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(about.keys() - {"key", "sha256"}):
        digest.update(json.dumps([name, about[name]]).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
