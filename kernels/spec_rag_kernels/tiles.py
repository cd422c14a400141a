"""Tile sizes of the Triton kernels.

The launchers, the ahead-of-time compilation test and the roofline share them. The module does not import triton, so
that the roofline can be computed without it.
"""

from dataclasses import dataclass, replace

import torch

# The minimum rows, columns and reduction length of tl.dot.
MIN_DOT_SIZE = 16
# window_scores, first pass: resident programs on the 132 multiprocessors of an H100, three per multiprocessor. One
# program more needs a second wave.
MAX_PROGRAMS = 396
MAX_KEY_RANGES = 64


@dataclass(frozen=True)
class Tiles:
    """A tile of `rows` queries by `keys` keys, with the warps and pipeline stages of its launch."""

    rows: int
    keys: int
    warps: int
    stages: int

    def clipped(self, rows: int, keys: int) -> "Tiles":
        """Tiles no larger than the problem, rounded up to a size of tl.dot."""
        return replace(self, rows=min(self.rows, dot_size(rows)), keys=min(self.keys, dot_size(keys)))


GATHER_TILES = Tiles(rows=1, keys=32, warps=4, stages=1)


def dot_size(length: int) -> int:
    """The smallest power of two that is at least `length` and at least the minimum size of tl.dot."""
    return max(MIN_DOT_SIZE, 1 << (length - 1).bit_length())


def logsumexp_tiles(dtype: torch.dtype, head_dim: int) -> Tiles:
    """window_scores, first pass: rows of all query heads of a group against one range of keys."""
    if dtype == torch.float32:
        # float32 products run without tensor cores, where a wider tile or a second stage spills registers.
        return Tiles(rows=32, keys=32, warps=8, stages=1)
    if head_dim <= 128:
        return Tiles(rows=128, keys=64, warps=4, stages=3 if head_dim <= 64 else 2)
    return Tiles(rows=64, keys=64, warps=4, stages=2)


def reduce_tiles(dtype: torch.dtype, head_dim: int) -> Tiles:
    """window_scores, second pass: one block of keys against the rows of one head at a time."""
    if dtype == torch.float32:
        return Tiles(rows=32, keys=32, warps=8, stages=1)
    return Tiles(rows=64, keys=128 if head_dim <= 128 else 64, warps=4, stages=2)


def key_ranges(keys: int, programs: int, tiles: Tiles) -> tuple[int, int]:
    """window_scores, first pass: the number of key ranges processed in parallel, and the keys per range.

    Args:
        keys: number of keys.
        programs: programs per range.
        tiles: of the first pass; a range is a whole number of its key blocks.
    """
    blocks = -(-keys // tiles.keys)
    ranges = max(1, min(blocks, MAX_KEY_RANGES, MAX_PROGRAMS // programs))
    blocks_per_range = -(-blocks // ranges)
    return -(-blocks // blocks_per_range), blocks_per_range * tiles.keys


def attention_tiles(dtype: torch.dtype, head_dim: int) -> Tiles:
    """vertical_slash_attention: one block of queries of one head against its columns, then against its band.

    The largest tiles without register spills with all options on: on sm_90 with triton 3.6 to 3.9, on sm_80 with 3.9
    (3.6 spills at most 84 bytes there).
    """
    if dtype == torch.float32:
        # float32 products run without tensor cores, where every wider tile spills on one of the two targets.
        if head_dim <= 64:
            return Tiles(rows=32, keys=32, warps=8, stages=1)
        return Tiles(rows=16, keys=32 if head_dim <= 128 else 16, warps=8, stages=1)
    if head_dim <= 128:
        # A head dimension below its block size needs a mask, which takes registers.
        unpadded = head_dim == dot_size(head_dim)
        return Tiles(rows=128, keys=64, warps=8, stages=3) if unpadded else Tiles(128, 32, warps=8, stages=2)
    return Tiles(rows=64, keys=32, warps=8, stages=2)
