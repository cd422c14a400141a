"""Compile every Triton kernel without a GPU and report its registers, spills, shared memory and instructions.

    python kernels/benchmarks/compile_ahead.py [--targets sm_80,sm_90,gfx942] [--quick] [--json FILE]

Figures are those of the default tile sizes, from the assembler that ships with triton. TRITON_INTERPRET must be unset.
Issue rates bound the time from below without a measurement: a multiprocessor issues at most four instructions and
sixteen exponentials of a block's threads per cycle.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from measure import table
from spec_rag_kernels.gather_kv.triton import gather_kernel
from spec_rag_kernels.tiles import (
    GATHER_TILES,
    MAX_KEY_RANGES,
    Tiles,
    attention_tiles,
    dot_size,
    logsumexp_tiles,
    reduce_tiles,
)
from spec_rag_kernels.triton_common import dot_precision
from spec_rag_kernels.vertical_slash_attention.triton import vertical_slash_kernel
from spec_rag_kernels.window_scores.triton import reduced_probabilities_kernel, row_logsumexp_kernel, row_offset_kernel
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

TRITON_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# "plain" is the path of common models; "all options" enables every optional argument.
PLAIN, FULL = "plain", "all options"
OPTIONAL = {"key_mask", "sinks", "sliding_window", "weights"}
MULTIPLICATION = re.compile(r"\b(?:HGMMA|HMMA|IMMA|FFMA2?)\b")
LABEL = re.compile(r"\s*(\.L_\w+):")
INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S.*?)\s*;")
BRANCH = re.compile(r"BRA\b.*`\((\.L_\w+)\)")


@dataclass(frozen=True)
class Variant:
    """A kernel as its launcher specializes it: argument types, constants, warps and stages."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    tiles: Tiles


def variants(dtype: torch.dtype, head_dim: int, options: str = PLAIN) -> Iterator[Variant]:
    """Every kernel with its default tiles."""
    element = TRITON_TYPES[dtype]
    full = options == FULL
    common = {
        "SOFTCAP": 50.0 if full else None,
        "PRECISION": dot_precision(torch.empty(0, dtype=dtype)),
        "HEAD_DIM": head_dim,
        "BLOCK_DIM": dot_size(head_dim),
    }
    pointers = {"query": f"*{element}", "key": f"*{element}", "value": f"*{element}"}
    masks = {"key_mask": "*u8", "sliding_window": "i32"} if full else {}
    tiles = logsumexp_tiles(dtype, head_dim)
    yield Variant(
        "window_scores: logsumexp",
        row_logsumexp_kernel,
        pointers | masks | {"partial": "*fp32", "scaling": "fp32"},
        common | _blocks(tiles),
        tiles,
    )
    tiles = reduce_tiles(dtype, head_dim)
    yield Variant(
        "window_scores: row offset",
        row_offset_kernel,
        {"partial": "*fp32", "offset": "*fp32"} | ({"sinks": "*fp32", "weights": "*fp32"} if full else {}),
        {"BLOCK_RANGES": MAX_KEY_RANGES, "BLOCK_ROWS": tiles.rows},
        replace(tiles, warps=4, stages=1),
    )
    yield Variant(
        "window_scores: reduce",
        reduced_probabilities_kernel,
        pointers | masks | {"row_offset": "*fp32", "out": "*fp32", "scaling": "fp32"},
        common | _blocks(tiles) | {"SUM_QUERIES": full, "SUM_HEADS": full, "PER_HEAD": False},
        tiles,
    )
    tiles = attention_tiles(dtype, head_dim)
    indices = dict.fromkeys(("columns", "column_from", "column_to", "column_all"), "*i32")
    yield Variant(
        "vertical_slash_attention",
        vertical_slash_kernel,
        pointers | masks | indices | {"out": f"*{element}", "scaling": "fp32"} | ({"sinks": "*fp32"} if full else {}),
        common | _blocks(tiles),
        tiles,
    )
    if not full:
        yield Variant(
            "gather_kv",
            gather_kernel,
            pointers | {"positions": "*i64", "key_out": f"*{element}", "value_out": f"*{element}"},
            {"HEAD_DIM": head_dim, "BLOCK_DIM": dot_size(head_dim), "BLOCK_KEYS": GATHER_TILES.keys},
            GATHER_TILES,
        )


def _blocks(tiles: Tiles) -> dict[str, int]:
    return {"BLOCK_ROWS": tiles.rows, "BLOCK_KEYS": tiles.keys}


def resources(variant: Variant, dtype: torch.dtype, head_dim: int, options: str, target_name: str) -> dict[str, Any]:
    """Compile one variant for one target and read its resources.

    Registers and spilled bytes are per thread, shared bytes per block; instructions and exponentials per thread and
    logit of the unmasked inner loop, None where no loop multiplies.
    """
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, parameter in enumerate(variant.kernel.params):
        name = parameter.name
        if name in variant.constants:
            signature[name], constants[name] = "constexpr", variant.constants[name]
        elif name in OPTIONAL and name not in variant.types:
            signature[name], constants[name] = "constexpr", None
        else:
            signature[name] = variant.types.get(name, "i32")
            # As in a launch: torch's pointers are aligned, and strides are multiples of the head dimension.
            if signature[name].startswith("*") or name.endswith("_stride"):
                attributes[(index,)] = [["tt.divisibility", 16]]
    target, tiles = TARGETS[target_name], variant.tiles
    compiled = triton.compile(
        ASTSource(variant.kernel, signature, constants, attributes),
        target=target,
        options={"num_warps": tiles.warps, "num_stages": tiles.stages},
    )
    registers = spills = None
    loop: list[str] = []
    if target.backend == "cuda":
        registers, spills, loop = assemble(compiled.asm["ptx"], target)
    elif (text := compiled.asm.get("amdgcn")) is not None:
        registers = int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1])  # type: ignore[index]
        spills = 4 * int(re.search(r"\.vgpr_spill_count:\s+(\d+)", text)[1])  # type: ignore[index]
    logits = tiles.rows * tiles.keys / (32 * tiles.warps)
    exponentials = sum(instruction.startswith("MUFU.EX2") for instruction in loop)
    return {
        "kernel": variant.name,
        "dtype": TRITON_TYPES[dtype],
        "head_dim": head_dim,
        "options": options,
        "target": target_name,
        "tile": f"{tiles.rows}x{tiles.keys}",
        "warps": tiles.warps,
        "stages": tiles.stages,
        "registers": registers,
        "spill_bytes": spills,
        "shared_bytes": compiled.metadata.shared,
        "instructions_per_logit": round(len(loop) / logits, 2) if loop else None,
        "exponentials_per_logit": round(exponentials / logits, 2) if loop else None,
    }


def assemble(ptx: str, target: GPUTarget) -> tuple[int, int, list[str]]:
    """Registers and spilled bytes per thread, and the instructions of the inner loop, from ptxas and nvdisasm.

    Raises:
        RuntimeError: the report of ptxas lacks registers or spills.
    """
    # triton ships two assemblers, selects one by architecture, and emits "sm_90a" for Hopper.
    arch = "sm_90a" if target.arch == 90 else f"sm_{target.arch}"
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        command = [get_ptxas(target.arch).path, "-v", "--regAllocOptLevel=2", f"--gpu-name={arch}", str(source)]
        run = partial(subprocess.run, check=True, capture_output=True, text=True)
        report = run([*command, "-o", str(binary)]).stderr
        code = run([knobs.nvidia.nvdisasm.path, "-c", str(binary)]).stdout
    registers = re.search(r"Used (\d+) registers", report)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    if registers is None or not spills:
        raise RuntimeError(f"the report of ptxas has no registers or no spills:\n{report}")
    return int(registers[1]), sum(map(int, spills)), inner_loop(code)


def inner_loop(code: str) -> list[str]:
    """The instructions of the shortest loop with a multiplication, the unmasked one, in nvdisasm's notation."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    loops: list[list[str]] = []
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif instruction := INSTRUCTION.match(line):
            instructions.append(instruction[1])
            if (branch := BRANCH.match(instruction[1])) and branch[1] in labels:
                loops.append(instructions[labels[branch[1]] :])
    return min((loop for loop in loops if any(map(MULTIPLICATION.match, loop))), key=len, default=[])


def cases(quick: bool) -> Iterator[tuple[torch.dtype, int, str]]:
    """Compiled combinations: all head dimensions in bfloat16, common ones in the other types, and all options."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", default="sm_80,sm_90", help=f"comma-separated, of {', '.join(TARGETS)}")
    parser.add_argument("--quick", action="store_true", help="five combinations only, as in the test")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        sys.exit("TRITON_INTERPRET is set, and interpreted kernels cannot be compiled; unset it")
    rows = [
        resources(variant, dtype, head_dim, options, target)
        for target in arguments.targets.split(",")
        for dtype, head_dim, options in cases(arguments.quick)
        for variant in variants(dtype, head_dim, options)
    ]
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    print(table([name.replace("_", " ") for name in rows[0]], cells))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
