"""How the Triton kernel of vertical_slash_attention cuts up its work. Plain numbers: no triton, no tensors."""

import torch

from spec_rag_kernels.tiles import Tiles, dot_size


def attention_tiles(dtype: torch.dtype, head_dim: int) -> Tiles:
    """One block of queries of one head against its columns, then against its band.

    The largest tiles that the assembler fits into registers with every option on: on sm_90 with triton 3.6 to 3.9, on
    sm_80 with 3.9 (3.6 spills at most 84 bytes there).
    """
    if dtype == torch.float32:
        # Multiplied without tensor cores, where every wider tile spills on one of the two.
        if head_dim <= 64:
            return Tiles(rows=32, keys=32, warps=8, stages=1)
        return Tiles(rows=16, keys=32 if head_dim <= 128 else 16, warps=8, stages=1)
    if head_dim <= 128:
        # The mask of a head that does not fill its block takes registers of its own.
        fills = head_dim == dot_size(head_dim)
        return Tiles(rows=128, keys=64, warps=8, stages=3) if fills else Tiles(128, 32, warps=8, stages=2)
    return Tiles(rows=64, keys=32, warps=8, stages=2)
