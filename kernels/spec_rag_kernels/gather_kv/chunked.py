"""gather_kv in plain torch for any device."""

import torch
from torch import Tensor

ENTRIES_PER_MOVE = 1024


def gather_kv_chunked(key: Tensor, value: Tensor, positions: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor]:
    """Key and value [batch, kv heads, c, dim]; with `in_place`, views of the given storage."""
    move = _move_to_front if in_place else _copy_out
    return move(key, positions), move(value, positions)


def _copy_out(tensor: Tensor, positions: Tensor) -> Tensor:
    batch, heads, kept = positions.shape
    out = tensor.new_empty(batch, heads, kept, tensor.shape[3])
    for row in range(batch):
        for head in range(heads):
            torch.index_select(tensor[row, head], 0, positions[row, head], out=out[row, head])
    return out


def _move_to_front(tensor: Tensor, positions: Tensor) -> Tensor:
    """Position i of an ascending list is at least i, so a piece never overwrites what a later piece still reads."""
    batch, heads, kept = positions.shape
    for row in range(batch):
        for head in range(heads):
            entries, picked = tensor[row, head], positions[row, head]
            for start in range(0, kept, ENTRIES_PER_MOVE):
                piece = picked[start : start + ENTRIES_PER_MOVE]
                entries[start : start + len(piece)] = entries[piece]
    return tensor[:, :, :kept]
