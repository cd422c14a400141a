"""gather_kv in plain torch for any device, one index_select per KV head."""

import torch
from torch import Tensor


def gather_kv_chunked(key: Tensor, value: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Key and value [b, kv, c, d]."""
    return _gather(key, positions), _gather(value, positions)


def _gather(tensor: Tensor, positions: Tensor) -> Tensor:
    batch, heads, kept = positions.shape
    out = tensor.new_empty(batch, heads, kept, tensor.shape[3])
    for row in range(batch):
        for head in range(heads):
            torch.index_select(tensor[row, head], 0, positions[row, head], out=out[row, head])
    return out
