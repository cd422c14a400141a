"""Pieces that the Triton kernels share. Importing this module imports triton."""

from math import e, log2
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spec_rag_kernels.backend import interpreting
from spec_rag_kernels.tiles import Tiles, dot_size

# A device computes powers of two: what is multiplied by this before is an exponent of e.
LOG2_E = log2(e)
TWICE_LOG2_E = tl.constexpr(2 * LOG2_E)


@triton.jit  # type: ignore[untyped-decorator]
def load_rows(pointer, rows, stride, valid, HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr):  # type: ignore[no-untyped-def]
    """[rows, BLOCK_DIM] from a matrix with unit stride in its last dimension; zeros where not `valid` and past
    HEAD_DIM. None for `valid`: all rows are there, and nothing is asked of any.
    """
    dims = tl.arange(0, BLOCK_DIM)
    places = pointer + rows[:, None].to(tl.int64) * stride + dims[None, :]
    dim_exists = dims[None, :] < HEAD_DIM
    if valid is not None:
        mask = valid[:, None]
        if HEAD_DIM < BLOCK_DIM:
            mask = mask & dim_exists
        loaded = tl.load(places, mask=mask, other=0.0)
    elif HEAD_DIM < BLOCK_DIM:
        loaded = tl.load(places, mask=dim_exists, other=0.0)
    else:
        loaded = tl.load(places)
    return loaded


@triton.jit  # type: ignore[untyped-decorator]
def soft_cap(logits, SOFTCAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """SOFTCAP * tanh(logits / SOFTCAP), which tl does not have; unchanged for None.

    By powers of two where the quotient is large. Where it is small, they would leave the rounding error of a number
    near 1, times SOFTCAP: there an odd polynomial (least relative error over 0 to .625, 4e-9) has that of the logit.
    """
    if SOFTCAP is not None:
        quotient = logits * (1.0 / SOFTCAP)
        size = tl.abs(quotient)
        large = 1.0 - 2.0 / (tl.exp2(size * TWICE_LOG2_E) + 1.0)
        square = quotient * quotient
        series = 0.020639085 - 0.005704985 * square
        series = -0.053739715 + series * square
        series = 0.13331442 + series * square
        series = -0.33333282 + series * square
        small = quotient + quotient * (square * series)
        logits = SOFTCAP * tl.where(size < 0.625, small, tl.where(quotient < 0.0, -large, large))
    return logits


@triton.jit  # type: ignore[untyped-decorator]
def multiply(a, b, accumulator, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """accumulator + a @ b in float32; "ieee" multiplies as float32 whatever the operands are."""
    if PRECISION == "ieee":
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc=accumulator, input_precision=PRECISION)


def unit_stride(tensor: Tensor) -> Tensor:
    """The tensor, copied only when its last dimension is not dense; every other stride is handed to the kernel."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def as_bytes(mask: Tensor | None) -> Tensor | None:
    """A bool mask as uint8, which loads the same way on every device."""
    return None if mask is None else mask.contiguous().view(torch.uint8)


def dot_precision(tensor: Tensor) -> str:
    """float32 is multiplied as float32: TF32 would miss the promised 1e-5. "tf32" means nothing to narrower types."""
    # The interpreter of triton 3.9 multiplies the bit patterns of bfloat16 as if they were integers, and cuts numbers
    # off where a GPU rounds them.
    exact = tensor.dtype == torch.float32 or (interpreting() and tensor.dtype == torch.bfloat16)
    return "ieee" if exact else "tf32"


def launch_options(query: Tensor, tiles: Tiles, softcap: float | None) -> dict[str, Any]:
    """What every kernel of attention is compiled and launched with; its logits are in powers of two."""
    dim = query.shape[-1]
    return {
        "SOFTCAP": None if softcap is None else softcap * LOG2_E,
        "PRECISION": dot_precision(query),
        "HEAD_DIM": dim,
        "BLOCK_DIM": dot_size(dim),
        "BLOCK_ROWS": tiles.rows,
        "BLOCK_KEYS": tiles.keys,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }
