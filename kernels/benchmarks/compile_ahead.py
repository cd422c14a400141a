"""Compile every Triton kernel for GPUs that are not there, and show what it takes of them.

    python kernels/benchmarks/compile_ahead.py [--targets sm_80,sm_90,gfx942] [--quick] [--json FILE]

Registers, spills, shared memory and the instructions per logit of the default tilings, as the assembler that comes
with triton reports them. Needs no GPU, and a process without TRITON_INTERPRET.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from assembly import assemble
from spec_rag_kernels.gather_kv.tiling import COPY_TILES
from spec_rag_kernels.gather_kv.triton import copy_kernel
from spec_rag_kernels.tiles import Tiles, dot_size
from spec_rag_kernels.triton_common import dot_precision
from spec_rag_kernels.vertical_slash_attention.tiling import attention_tiles
from spec_rag_kernels.vertical_slash_attention.triton import vertical_slash_kernel
from spec_rag_kernels.window_scores.tiling import MAX_RANGES, logsumexp_tiles, reduce_tiles
from spec_rag_kernels.window_scores.triton_kernels import (
    reduced_probabilities_kernel,
    row_logsumexp_kernel,
    row_offset_kernel,
)
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TRITON_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Variant:
    """A kernel as the launcher would specialise it: argument types, constants and the launch's warps and stages."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    tiles: Tiles


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes. Registers and spills are per thread, instructions per thread and logit of the
    loop without masks; None where no assembler tells or no loop multiplies.
    """

    kernel: str
    dtype: str
    head_dim: int
    options: str
    target: str
    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None
    spill_bytes: int | None
    shared_bytes: int
    instructions_per_logit: float | None
    exponentials_per_logit: float | None


# Plain is the path of every usual model; full is what the operators can do beyond it, all at once.
PLAIN, FULL = "plain", "all options"


def variants(dtype: torch.dtype, head_dim: int, options: str = PLAIN) -> Iterator[Variant]:
    """Every kernel in its default tiling. Strides and lengths are taken as multiples of 16 or not, as they would
    come.
    """
    element = TRITON_TYPES[dtype]
    full = options == FULL
    common = {
        "SOFTCAP": 50.0 if full else None,
        "PRECISION": dot_precision(torch.empty(0, dtype=dtype)),
        "HEAD_DIM": head_dim,
        "BLOCK_DIM": dot_size(head_dim),
    }
    pointers = {"query": f"*{element}", "key": f"*{element}", "value": f"*{element}"}
    tiles = logsumexp_tiles(dtype, head_dim)
    yield Variant(
        "window_scores: logsumexp",
        row_logsumexp_kernel,
        pointers
        | {"partial": "*fp32", "scaling": "fp32"}
        | ({"own_key": f"*{element}", "key_mask": "*u8", "own_key_mask": "*u8"} if full else {}),
        common | {"BLOCK_ROWS": tiles.rows, "BLOCK_KEYS": tiles.keys},
        tiles,
    )
    tiles = reduce_tiles(dtype, head_dim)
    yield Variant(
        "window_scores: row offset",
        row_offset_kernel,
        {"partial": "*fp32", "offset": "*fp32"} | ({"sinks": "*fp32", "weights": "*fp32"} if full else {}),
        {"BLOCK_RANGES": MAX_RANGES, "BLOCK_ROWS": tiles.rows},
        replace(tiles, warps=4, stages=1),
    )
    yield Variant(
        "window_scores: reduce",
        reduced_probabilities_kernel,
        pointers
        | {"row_offset": "*fp32", "out": "*fp32", "scaling": "fp32"}
        | ({"key_mask": "*u8", "sliding_window": "i32"} if full else {}),
        common
        | {"CAUSAL": True, "SUM_QUERIES": full, "SUM_HEADS": full, "PER_HEAD": False}
        | {"BLOCK_ROWS": tiles.rows, "BLOCK_KEYS": tiles.keys},
        tiles,
    )
    tiles = attention_tiles(dtype, head_dim)
    yield Variant(
        "vertical_slash_attention",
        vertical_slash_kernel,
        pointers
        | {
            "columns": "*i32",
            "column_from": "*i32",
            "column_to": "*i32",
            "column_all": "*i32",
            "out": f"*{element}",
            "scaling": "fp32",
        }
        | ({"key_mask": "*u8", "sinks": "*fp32", "sliding_window": "i32"} if full else {}),
        common | {"BLOCK_ROWS": tiles.rows, "BLOCK_KEYS": tiles.keys},
        tiles,
    )
    if full:
        return
    yield Variant(
        "gather_kv: copy",
        copy_kernel,
        pointers | {"positions": "*i64", "key_out": f"*{element}", "value_out": f"*{element}"},
        {"HEAD_DIM": head_dim, "BLOCK_DIM": dot_size(head_dim), "BLOCK_KEYS": COPY_TILES.keys},
        COPY_TILES,
    )


def resources(variant: Variant, dtype: torch.dtype, head_dim: int, options: str, target_name: str) -> Resources:
    """Compile one variant for one target and read what it takes."""
    optional = {"own_key", "key_mask", "own_key_mask", "sinks", "sliding_window", "weights"}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, parameter in enumerate(variant.kernel.params):
        name = parameter.name
        if name in variant.constants:
            signature[name], constants[name] = "constexpr", variant.constants[name]
        elif name in optional and name not in variant.types:
            signature[name], constants[name] = "constexpr", None
        else:
            signature[name] = variant.types.get(name, "i32")
            # What a launch would see: torch's pointers are aligned, and the strides are multiples of the head
            # dimension.
            if signature[name].startswith("*") or name.endswith("_stride"):
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(variant.kernel, signature, constants, attributes)
    target = TARGETS[target_name]
    launch = {"num_warps": variant.tiles.warps, "num_stages": variant.tiles.stages}
    compiled = triton.compile(source, target=target, options=launch)
    registers = spills = instructions = exponentials = None
    if target.backend == "cuda":
        assembled = assemble(compiled.asm["ptx"], target)
        registers, spills = assembled.registers, assembled.spill_bytes
        if assembled.loop_instructions:
            logits = variant.tiles.rows * variant.tiles.keys / (32 * variant.tiles.warps)
            instructions = round(assembled.loop_instructions / logits, 2)
            exponentials = round(assembled.loop_exponentials / logits, 2)
    elif (text := compiled.asm.get("amdgcn")) is not None:
        registers, spills = _amd_resources(text)
    return Resources(
        kernel=variant.name,
        dtype=TRITON_TYPES[dtype],
        head_dim=head_dim,
        options=options,
        target=target_name,
        rows=variant.tiles.rows,
        keys=variant.tiles.keys,
        warps=variant.tiles.warps,
        stages=variant.tiles.stages,
        registers=registers,
        spill_bytes=spills,
        shared_bytes=compiled.metadata.shared,
        instructions_per_logit=instructions,
        exponentials_per_logit=exponentials,
    )


def _amd_resources(assembly: str) -> tuple[int | None, int | None]:
    registers = re.search(r"\.vgpr_count:\s+(\d+)", assembly)
    spills = re.search(r"\.vgpr_spill_count:\s+(\d+)", assembly)
    return (int(registers[1]) if registers else None), (4 * int(spills[1]) if spills else None)


def cases(quick: bool) -> Iterator[tuple[torch.dtype, int, str]]:
    """What is compiled: every head dimension in bfloat16, the other types at the usual ones, and all options."""
    if quick:
        yield from ((torch.bfloat16, 64, PLAIN), (torch.float16, 128, PLAIN), (torch.bfloat16, 256, PLAIN))
        yield from ((torch.float32, 64, PLAIN), (torch.bfloat16, 128, FULL))
        return
    for head_dim in (64, 80, 96, 128, 256):
        yield torch.bfloat16, head_dim, PLAIN
    for head_dim in (64, 128, 256):
        yield torch.float16, head_dim, PLAIN
        yield torch.float32, head_dim, PLAIN
        yield torch.float32, head_dim, FULL
        yield torch.bfloat16, head_dim, FULL


def table(rows: list[Resources]) -> str:
    """The rows as text, one kernel a line."""
    lines = [f"{'kernel':26} {'type':5} {'dim':>4} {'options':12} {'target':7} {'tile':>8} {'warps':>5} {'stages':>6} "
             f"{'regs':>5} {'spill B':>8} {'shared B':>9} {'instr/logit':>11} {'exp/logit':>9}"]  # fmt: skip
    for row in rows:
        lines.append(
            f"{row.kernel:26} {row.dtype:5} {row.head_dim:>4} {row.options:12} {row.target:7} "
            f"{f'{row.rows}x{row.keys}':>8} {row.warps:>5} {row.stages:>6} {_shown(row.registers):>5} "
            f"{_shown(row.spill_bytes):>8} {row.shared_bytes:>9} "
            f"{_shown(row.instructions_per_logit):>11} {_shown(row.exponentials_per_logit):>9}"
        )
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", default="sm_80,sm_90", help=f"of {', '.join(TARGETS)}, with commas")
    parser.add_argument("--quick", action="store_true", help="five shapes alone, as the test does")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    arguments = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        sys.exit("TRITON_INTERPRET is set, and an interpreted kernel cannot be compiled; unset it")
    rows = [
        resources(variant, dtype, head_dim, options, target)
        for target in arguments.targets.split(",")
        for dtype, head_dim, options in cases(arguments.quick)
        for variant in variants(dtype, head_dim, options)
    ]
    print(table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
