"""Fingerprint of a model: a digest of every tensor of its first layers.

Computed once per model and depth (half a second for 500 MB), and again if a tensor was replaced or changed in place.
"""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_rag.models.model_config import keep_first_layers
from spec_rag.utils.forking import new_lock
from spec_rag.utils.object_state import state_of

_SAMPLES = 32  # values per tensor in the quick checksum
_VOLATILE = ("_name_or_path", "transformers_version", "_attn_implementation", "dtype", "torch_dtype", "use_cache")

_digest_lock = new_lock()


class _Digests(dict[int, tuple[str, str]]):
    """The digests of one model, by depth, each with the quick checksum it was computed at."""


def fingerprint(model: PreTrainedModel, depth: int, total_layers: int) -> str:
    """SHA-256 of the model's first `depth` layers; the same if only these layers were loaded.

    Args:
        model: any decoder of transformers.
        depth: number of decoder layers, with the embeddings; the whole model if it is `total_layers`.
        total_layers: decoder layers of the checkpoint, of which fewer may be loaded.
    """
    depth = min(depth, total_layers)
    whole = depth == total_layers
    checksum = quick_checksum(model, depth, whole)
    digests = state_of(model, _Digests)
    with _digest_lock:
        if depth not in digests or digests[depth][0] != checksum:
            digests[depth] = (checksum, _digest(model, depth, whole))
        return digests[depth][1]


def quick_checksum(model: PreTrainedModel, depth: int, whole: bool = False) -> str:
    """Checksum of the tensors' addresses, version counters and a few values, to detect changes within milliseconds.

    It does not distinguish two models.
    """
    places, values = [], []
    for _, tensor in _tensors(model, depth, whole):
        # inference tensors have no version counter; their values are sampled anyway
        places.append((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version))
        flat = tensor.detach().reshape(-1)
        values.append(flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES].float().cpu())
    return hashlib.sha256(repr(places).encode() + torch.cat(values).numpy().tobytes()).hexdigest()


def _tensors(model: PreTrainedModel, depth: int, whole: bool) -> list[tuple[str, Tensor]]:
    if whole:
        return [*model.state_dict(keep_vars=True).items()]
    found = [("embeddings", model.get_input_embeddings().weight)]
    for i, layer in enumerate(list(model.get_decoder().layers)[:depth]):
        found += [(f"{i}.{name}", tensor) for name, tensor in layer.state_dict(keep_vars=True).items()]
    return found


def _digest(model: PreTrainedModel, depth: int, whole: bool) -> str:
    config = copy.deepcopy(model.config)
    keep_first_layers(config, depth)
    described = {name: value for name, value in config.to_dict().items() if name not in _VOLATILE}
    digest = hashlib.sha256(repr(sorted(described.items(), key=lambda item: item[0])).encode())
    for name, tensor in _tensors(model, depth, whole):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
