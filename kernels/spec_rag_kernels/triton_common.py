"""Device functions and launch options shared by the Triton kernels. Importing this module imports triton."""

from math import e, log2
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spec_rag_kernels.backend import interpreting
from spec_rag_kernels.tiles import Tiles, dot_size

# GPUs compute powers of two. Logits multiplied by this are exponents of 2 instead of e.
LOG2_E = log2(e)
TWICE_LOG2_E = tl.constexpr(2 * LOG2_E)


@triton.jit  # type: ignore[untyped-decorator]
def load_rows(pointer, rows, stride, valid, HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load [rows, BLOCK_DIM] from a matrix with unit stride in its last dimension.

    Entries past HEAD_DIM and rows where `valid` is false are zero. None for `valid` loads all rows without a mask.
    """
    dims = tl.arange(0, BLOCK_DIM)
    addresses = pointer + rows[:, None].to(tl.int64) * stride + dims[None, :]
    dim_valid = dims[None, :] < HEAD_DIM
    if valid is not None:
        mask = valid[:, None]
        if HEAD_DIM < BLOCK_DIM:
            mask = mask & dim_valid
        loaded = tl.load(addresses, mask=mask, other=0.0)
    elif HEAD_DIM < BLOCK_DIM:
        loaded = tl.load(addresses, mask=dim_valid, other=0.0)
    else:
        loaded = tl.load(addresses)
    return loaded


@triton.jit  # type: ignore[untyped-decorator]
def soft_cap(logits, SOFTCAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """SOFTCAP * tanh(logits / SOFTCAP); unchanged for None. tl has no tanh.

    Large quotients use exp2. For small ones its result is near 1, and the rounding error would be scaled by SOFTCAP, so
    an odd polynomial takes over (minimax on [0, 0.625], relative error 4e-9).
    """
    if SOFTCAP is not None:
        quotient = logits * (1.0 / SOFTCAP)
        magnitude = tl.abs(quotient)
        large = 1.0 - 2.0 / (tl.exp2(magnitude * TWICE_LOG2_E) + 1.0)
        square = quotient * quotient
        series = 0.020639085 - 0.005704985 * square
        series = -0.053739715 + series * square
        series = 0.13331442 + series * square
        series = -0.33333282 + series * square
        small = quotient + quotient * (square * series)
        logits = SOFTCAP * tl.where(magnitude < 0.625, small, tl.where(quotient < 0.0, -large, large))
    return logits


@triton.jit  # type: ignore[untyped-decorator]
def multiply(a, b, accumulator, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """accumulator + a @ b in float32; "ieee" casts the operands to float32 first."""
    if PRECISION == "ieee":
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc=accumulator, input_precision=PRECISION)


def unit_stride(tensor: Tensor) -> Tensor:
    """The tensor with unit stride in its last dimension, copied only if needed; the kernels take the other strides."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def as_bytes(mask: Tensor | None) -> Tensor | None:
    """A bool mask viewed as uint8, which loads alike on all devices."""
    return None if mask is None else mask.contiguous().view(torch.uint8)


def dot_precision(tensor: Tensor) -> str:
    """The input precision of tl.dot: "ieee" for float32, since TF32 misses the tolerance of 1e-5, else "tf32".

    "tf32" has no effect on 16-bit types.
    """
    # The interpreter of triton 3.9 multiplies bfloat16 bit patterns as integers and truncates where a GPU rounds.
    exact = tensor.dtype == torch.float32 or (interpreting() and tensor.dtype == torch.bfloat16)
    return "ieee" if exact else "tf32"


def launch_options(query: Tensor, tiles: Tiles, softcap: float | None) -> dict[str, Any]:
    """Compile-time constants and launch options of the attention kernels, whose logits are exponents of 2."""
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
