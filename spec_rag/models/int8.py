"""Linear layers with weights of eight bits, for CPUs: a quarter of the memory, and faster products.

Weights are rounded per output row, inputs per call (dynamic quantisation); sums and outputs are float32. The kernels
are torch's own. This module knows linear layers; it does not know decoders or checkpoints.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer with int8 weights; its tensors are ordinary buffers, so that they can be told from others.

    Args:
        given: the layer that it takes the place of.
    """

    weight_int8: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, given: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = given.in_features, given.out_features
        weight = given.weight.detach().float()
        scale = (weight.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = (weight / scale[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
        self.register_buffer("weight_int8", rounded)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if given.bias is None else given.bias.detach().float())
        self._packed = self._pack()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> float32 [..., out]."""
        return torch.ops.quantized.linear_dynamic(x.float(), self._packed, True)  # type: ignore[no-any-return]

    def _pack(self) -> Any:
        zeros = torch.zeros(self.out_features, dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch means to replace how its kernels take their weights
            weight = torch._make_per_channel_quantized_tensor(self.weight_int8, self.scale.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(weight, self.bias)

    def __getstate__(self) -> dict[str, Any]:
        """Without what the kernel made of the weights."""
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._packed = self._pack()


def quantize_linears(module: nn.Module) -> int:
    """Put Int8Linear in the place of each linear layer below a module; returns how many there were."""
    found = 0
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
            found += 1
        else:
            found += quantize_linears(child)
    return found
