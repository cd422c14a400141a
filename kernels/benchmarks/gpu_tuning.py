"""The tilings stage of `on_gpu.py`: each kernel's tiling beside its neighbours, so that the best can be written into
the code. A tiling that answers otherwise than the one in use has failed.

One part of a kernel is changed at a time, the others stay as they are in `tiling.py`. Without a GPU the interpreter
runs them on small shapes, which says that each is right and nothing of its speed.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from unittest.mock import patch

import gpu_kernels
import torch
from gpu_rows import FAILED, SKIPPED, Recorder, release, told
from measure import device_seconds
from roofline import LENGTHS, MODELS, Shape
from spec_rag_kernels.tiles import Tiles
from triton.runtime.errors import OutOfResources


@dataclass(frozen=True)
class Part:
    """Something of a kernel that can be set: where its module keeps it, and what it may be."""

    operator: str
    name: str
    module: str
    attribute: str
    candidates: tuple[Tiles | int, ...]
    is_function: bool = True


# rows, keys, warps, stages
PARTS = (
    Part(
        "window_scores",
        "first pass",
        "window_scores.triton",
        "logsumexp_tiles",
        (
            Tiles(64, 64, 4, 2),
            Tiles(64, 128, 4, 2),
            Tiles(128, 64, 4, 3),
            Tiles(128, 64, 8, 2),
            Tiles(128, 128, 8, 2),
            Tiles(256, 64, 8, 2),
            Tiles(256, 64, 8, 3),
        ),
    ),
    Part(
        "window_scores", "programs of the first pass", "window_scores.tiling", "MOST_PROGRAMS", (264, 528, 1056), False
    ),
    Part(
        "window_scores",
        "second pass",
        "window_scores.triton",
        "reduce_tiles",
        (
            Tiles(64, 64, 4, 2),
            Tiles(64, 128, 4, 3),
            Tiles(64, 128, 8, 2),
            Tiles(64, 256, 8, 2),
            Tiles(64, 256, 4, 2),
            Tiles(32, 128, 4, 3),
        ),
    ),
    Part(
        "vertical_slash_attention",
        "all",
        "vertical_slash_attention.triton",
        "attention_tiles",
        (
            Tiles(128, 32, 8, 2),
            Tiles(128, 64, 8, 2),
            Tiles(128, 64, 8, 4),
            Tiles(64, 64, 4, 2),
            Tiles(64, 64, 4, 3),
            Tiles(64, 32, 4, 3),
        ),
    ),
    Part(
        "gather_kv to an eighth",
        "copy",
        "gather_kv.triton",
        "COPY_TILES",
        (Tiles(1, 16, 4, 1), Tiles(1, 16, 8, 1), Tiles(1, 32, 8, 1), Tiles(1, 64, 4, 1), Tiles(1, 64, 8, 1)),
        False,
    ),
)


def run(recorder: Recorder, device: str) -> None:
    """Every part of every kernel at one long shape: as it is, and each candidate."""
    small = device == "cpu"
    shape, tokens = (Shape("small", 4, 2, 64), 150) if small else (MODELS[0], LENGTHS[1])
    dtype = torch.float32 if small else torch.bfloat16
    torch.manual_seed(0)
    for part in PARTS:
        calls, cost, _ = gpu_kernels.OPERATORS[part.operator](shape, tokens, device, dtype)
        call = calls[part.operator]
        default, truth = 0.0, None
        for candidate in (None, *part.candidates):
            case = f"{part.operator}, {part.name}: {_told(candidate)}"
            if recorder.seconds_left < 3:
                recorder.add(case, status=SKIPPED, note="no time was left")
                continue
            try:
                with torch.no_grad(), _set(part, candidate):
                    result = call()
                    truth = result if truth is None else truth
                    torch.testing.assert_close(result, truth, atol=1e-2, rtol=1e-2)
                    seconds = None if small else device_seconds(call, 15, device)
            except OutOfResources as error:
                recorder.add(case, status=SKIPPED, note=str(error))
                continue
            except AssertionError as error:
                recorder.add(case, status=FAILED, note=told(error))
                continue
            if seconds is None:
                recorder.add(case)
                continue
            default = default or seconds
            figures = {"µs": seconds * 1e6, "times faster": default / seconds}
            recorder.add(case, figures | {"of roofline": cost.bound_seconds / seconds})
        release()


def _set(part: Part, candidate: Tiles | int | None) -> AbstractContextManager[object]:
    """The part changed while the block runs; None leaves it as it is."""
    if candidate is None:
        return nullcontext()
    module = import_module(f"spec_rag_kernels.{part.module}")
    return patch.object(module, part.attribute, (lambda *_: candidate) if part.is_function else candidate)


def _told(candidate: Tiles | int | None) -> str:
    if candidate is None:
        return "as it is"
    if isinstance(candidate, int):
        return f"{candidate:,}"
    return f"{candidate.rows} x {candidate.keys}, {candidate.warps} warps, {candidate.stages} stages"
