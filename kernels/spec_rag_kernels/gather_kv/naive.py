"""Reference implementation of gather_kv, for tests."""

import torch
from torch import Tensor


def gather_kv_naive(key: Tensor, value: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Key and value [b, kv, c, d]."""
    return _gather(key, positions), _gather(value, positions)


def _gather(tensor: Tensor, positions: Tensor) -> Tensor:
    batch, heads, _ = positions.shape
    gathered = [[tensor[row, head][positions[row, head]] for head in range(heads)] for row in range(batch)]
    return torch.stack([torch.stack(row) for row in gathered])
