"""gather_kv entry by entry. The truth that tests compare with."""

import torch
from torch import Tensor


def gather_kv_naive(key: Tensor, value: Tensor, positions: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor]:
    """Key and value [batch, kv heads, c, dim]; with `in_place`, views of the given storage."""
    return _gather(key, positions, in_place), _gather(value, positions, in_place)


def _gather(tensor: Tensor, positions: Tensor, in_place: bool) -> Tensor:
    batch, heads, kept = positions.shape
    picked = [[tensor[row, head][positions[row, head]] for head in range(heads)] for row in range(batch)]
    gathered = torch.stack([torch.stack(row) for row in picked])
    if not in_place:
        return gathered
    front = tensor[:, :, :kept]
    front.copy_(gathered)
    return front
