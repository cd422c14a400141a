"""How the Triton kernels of gather_kv cut up their work. Plain numbers: no triton, no tensors."""

from spec_rag_kernels.tiles import Tiles

COPY_TILES = Tiles(rows=1, keys=32, warps=4, stages=1)
MOVE_TILES = Tiles(rows=1, keys=128, warps=4, stages=1)
# The columns of a head are independent, and cutting them up is the only way to more programs when moving in place.
MOVE_DIMS = 32
