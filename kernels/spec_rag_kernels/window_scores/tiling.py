"""How the Triton kernels of window_scores cut up their work. Plain numbers: no triton, no tensors."""

import torch

from spec_rag_kernels.tiles import Tiles

# What the 132 multiprocessors of an H100 hold at once, at three programs each: one more would be a second wave.
MOST_PROGRAMS = 396
MAX_RANGES = 64


def logsumexp_tiles(dtype: torch.dtype, head_dim: int) -> Tiles:
    """First pass: rows of the whole group against a range of keys."""
    if dtype == torch.float32:
        # Multiplied without tensor cores, where a wider tile or a second stage spills.
        return Tiles(rows=32, keys=32, warps=8, stages=1)
    if head_dim <= 128:
        return Tiles(rows=128, keys=64, warps=4, stages=3 if head_dim <= 64 else 2)
    return Tiles(rows=64, keys=64, warps=4, stages=2)


def reduce_tiles(dtype: torch.dtype, head_dim: int) -> Tiles:
    """Second pass: one block of keys against the rows of one head after the other."""
    if dtype == torch.float32:
        return Tiles(rows=32, keys=32, warps=8, stages=1)
    return Tiles(rows=64, keys=128 if head_dim <= 128 else 64, warps=4, stages=2)


def key_ranges(keys: int, programs: int, tiles: Tiles) -> tuple[int, int]:
    """How many ranges of keys the first pass takes side by side, and the keys in each (whole blocks)."""
    blocks = -(-keys // tiles.keys)
    ranges = max(1, min(blocks, MAX_RANGES, MOST_PROGRAMS // programs))
    blocks_per_range = -(-blocks // ranges)
    return -(-blocks // blocks_per_range), blocks_per_range * tiles.keys
