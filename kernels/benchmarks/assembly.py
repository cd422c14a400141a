"""Assemble a Triton kernel for an NVIDIA GPU that is not there, and count what its inner loop does.

Without a GPU nothing is timed; but a multiprocessor issues at most four instructions and sixteen exponentials of a
block's threads per cycle, so that their number per logit bounds the time from below.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas

_MULTIPLIES = re.compile(r"\b(?:HGMMA|HMMA|IMMA|FFMA2?)\b")
_LABEL = re.compile(r"\s*(\.L_\w+):")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S.*?)\s*;")
_BACK = re.compile(r"BRA\b.*`\((\.L_\w+)\)")


@dataclass(frozen=True)
class Assembled:
    """Registers and spilled bytes per thread; instructions and exponentials per thread of one turn of the shortest
    loop that multiplies, zero where no loop does.
    """

    registers: int
    spill_bytes: int
    loop_instructions: int
    loop_exponentials: int


def assemble(ptx: str, target: GPUTarget) -> Assembled:
    """What the assembler that comes with triton makes of a kernel.

    Raises:
        RuntimeError: the assembler's report has no registers or no spills.
    """
    # Triton brings two assemblers, chooses by architecture and emits "sm_90a" for Hopper.
    arch = "sm_90a" if target.arch == 90 else f"sm_{target.arch}"
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        command = [get_ptxas(target.arch).path, "-v", "--regAllocOptLevel=2", f"--gpu-name={arch}", str(source)]
        report = _output([*command, "-o", str(binary)]).stderr
        code = _output([knobs.nvidia.nvdisasm.path, "-c", str(binary)]).stdout
    registers = re.search(r"Used (\d+) registers", report)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    if registers is None or not spills:
        raise RuntimeError(f"ptxas told nothing about registers or spills:\n{report}")
    loop = inner_loop(code)
    return Assembled(
        int(registers[1]), sum(map(int, spills)), len(loop), sum(one.startswith("MUFU.EX2") for one in loop)
    )


def inner_loop(code: str) -> list[str]:
    """The instructions of the shortest loop that multiplies, as nvdisasm writes them: the one without masks."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    loops: list[list[str]] = []
    for line in code.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif instruction := _INSTRUCTION.match(line):
            instructions.append(instruction[1])
            if (back := _BACK.match(instruction[1])) and back[1] in labels:
                loops.append(instructions[labels[back[1]] :])
    return min((loop for loop in loops if any(map(_MULTIPLIES.match, loop))), key=len, default=[])


def _output(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, check=True, capture_output=True, text=True)
