"""How the Triton kernel of gather_kv cuts up its work. Plain numbers: no triton, no tensors."""

from spec_rag_kernels.tiles import Tiles

COPY_TILES = Tiles(rows=1, keys=32, warps=4, stages=1)
