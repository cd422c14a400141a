"""A decoder with some of its layers: the first ones alone, or all behind what the first ones gave before.

The weights are shared with the model, and the model is as it was. This module knows layers; it does not know passages
or questions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


def first_layers(model: PreTrainedModel, depth: int) -> nn.Module:
    """The decoder with its first `depth` layers alone.

    What stands behind the last layer, such as its norm, still runs and is not looked at.
    """
    decoder = model.get_decoder()
    return decoder if depth >= len(decoder.layers) else _with_layers(decoder, list(decoder.layers)[:depth])


def layers_behind(model: PreTrainedModel, lower: CachedLowerLayers) -> nn.Module:
    """The decoder whose first layers give, for each row, what they gave before; the others run."""
    decoder = model.get_decoder()
    layers = list(decoder.layers)
    return _with_layers(
        decoder, [_ReplayLayer(layer, lower) for layer in layers[: lower.depth]] + layers[lower.depth :]
    )


class CachedLowerLayers:
    """What the first layers of a decoder gave for one row of tokens.

    Args:
        depth: so many layers are the first ones.

    Attributes:
        hidden: [1, tokens, dim], what they gave; None before they ran.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.hidden: Tensor | None = None
        self._in_tuple = False

    def noting(self, decoder: nn.Module) -> nn.Module:
        """The decoder, which notes here what its first layers give; others may run the same layers meanwhile."""
        layers = list(decoder.layers)  # type: ignore[arg-type]
        layers[self.depth - 1] = _RecordLayer(layers[self.depth - 1], self)
        return _with_layers(decoder, layers)

    def note(self, output: Any) -> None:
        """Take what the last of the first layers returns."""
        self._in_tuple = isinstance(output, tuple)
        self.hidden = output[0] if self._in_tuple else output

    def first_tokens(self, count: int) -> CachedLowerLayers:
        """Of the first `count` tokens alone."""
        assert self.hidden is not None
        part = copy.copy(self)
        part.hidden = self.hidden[:, :count]
        return part

    def for_rows(self, rows: int) -> Any:
        """What a layer returns for so many equal rows."""
        assert self.hidden is not None
        expanded = self.hidden.expand(rows, -1, -1)
        return (expanded,) if self._in_tuple else expanded


class _Instead(nn.Module):
    """Stands where a layer stands; in all that it does not do itself it is that layer."""

    def __init__(self, layer: nn.Module, lower: CachedLowerLayers) -> None:
        super().__init__()
        self.__dict__["_stands_for"] = layer  # not as a part of this module, which has no weights
        self.__dict__["_lower"] = lower

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_stands_for"], name)


class _ReplayLayer(_Instead):
    """Gives what is known."""

    def forward(self, hidden: Tensor, *_given: Any, **_named: Any) -> Any:
        """Whatever comes in, what is known goes out, in as many rows."""
        return self.__dict__["_lower"].for_rows(len(hidden))


class _RecordLayer(_Instead):
    """Runs, and lets note what comes out."""

    def forward(self, *given: Any, **named: Any) -> Any:
        """What the layer gives."""
        output = self.__dict__["_stands_for"](*given, **named)
        self.__dict__["_lower"].note(output)
        return output


def _with_layers(decoder: nn.Module, layers: Sequence[nn.Module]) -> nn.Module:
    other = copy.copy(decoder)
    other._modules = dict(decoder._modules)
    other.layers = nn.ModuleList(layers)
    return other
