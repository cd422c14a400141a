"""Tensor files in the safetensors format, validated against a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}


def tensors_to_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """Serialize CPU tensors as a safetensors file with the metadata `about` and a checksum.

    The format is written here because safetensors' own function leaks memory for every new tensor size.
    """
    header: dict[str, Any] = {"__metadata__": {**about, "sha256": checksum(tensors, about)}}
    parts: list[bytes] = []
    start = 0
    # widest dtypes first, so that each tensor is aligned to its item size
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        parts.append(_raw_bytes(tensor).tobytes())
        end = start + len(parts[-1])
        dtype = _DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return b"".join([len(encoded).to_bytes(8, "little"), encoded, *parts])


def tensors_from_bytes(data: bytes, key: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parse the tensors and the metadata of a file.

    Args:
        data: the content of the file.
        key: the required value of "key" in its metadata; None accepts any.

    Raises:
        ValueError: the file is damaged or has another key.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        about = _metadata(data)
        tensors: dict[str, Tensor] = load(data)
        is_valid = about.get("sha256") == checksum(tensors, about) and key in (None, about.get("key"))
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"it is damaged ({error})") from error
    if not is_valid:
        raise ValueError("its checksum or key does not match")
    return tensors, about


def _metadata(data: bytes) -> dict[str, Any]:
    """The metadata of a safetensors file: eight bytes with the header's length, then the header as JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


def checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of names, dtypes, shapes and values, and of the metadata except the key, which is compared separately."""
    digest = hashlib.sha256()
    for name in sorted(about.keys() - {"key", "sha256"}):
        digest.update(json.dumps([name, about[name]]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_raw_bytes(tensor).data)
    return digest.hexdigest()


def _raw_bytes(tensor: Tensor) -> Any:
    """The bytes of a tensor as a uint8 numpy array."""
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
