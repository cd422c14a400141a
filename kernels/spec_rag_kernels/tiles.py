"""Tile sizes of the Triton kernels, as plain numbers: the launchers, the ahead-of-time test and the roofline share
them.

Does not import triton, so that a machine without it can compute with the tilings.
"""

from dataclasses import dataclass, replace

# tl.dot takes no fewer rows, columns or terms than this.
SMALLEST_DOT = 16


@dataclass(frozen=True)
class Tiles:
    """`rows` of queries by `keys` per step, with the warps and pipeline stages they are launched with."""

    rows: int
    keys: int
    warps: int
    stages: int

    def clipped(self, rows: int, keys: int) -> "Tiles":
        """No larger than the problem, so that a window of one query does not pay for 128."""
        return replace(self, rows=min(self.rows, dot_size(rows)), keys=min(self.keys, dot_size(keys)))


def dot_size(length: int) -> int:
    """The smallest power of two that holds `length` and that tl.dot takes."""
    return max(SMALLEST_DOT, 1 << (length - 1).bit_length())
