"""A decoder with its first layers alone; the weights are shared with the model, which stays as it was."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def first_layers(model: PreTrainedModel, depth: int) -> nn.Module:
    """The decoder with its first `depth` layers alone.

    The final norm still runs; its output is not used.
    """
    decoder: nn.Module = model.get_decoder()
    layers: Any = decoder.layers
    if depth >= len(layers):
        return decoder
    other = copy.copy(decoder)
    other._modules = dict(decoder._modules)
    other.layers = nn.ModuleList(list(layers)[:depth])
    return other
