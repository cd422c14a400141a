"""gather_kv in plain torch for any device."""

import torch
from torch import Tensor


def gather_kv_chunked(key: Tensor, value: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Key and value [batch, kv heads, c, dim]."""
    return _gathered(key, positions), _gathered(value, positions)


def _gathered(tensor: Tensor, positions: Tensor) -> Tensor:
    batch, heads, kept = positions.shape
    out = tensor.new_empty(batch, heads, kept, tensor.shape[3])
    for row in range(batch):
        for head in range(heads):
            torch.index_select(tensor[row, head], 0, positions[row, head], out=out[row, head])
    return out
