"""The kernel stage of `on_gpu.py`: each kernel beside the materialised way, torch's attention and its roofline.

Shapes and bounds are those of `roofline.py`. On a CPU the shapes are small, the torch paths run, and no bound is shown.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import window_scores as window_scores_benchmark
from gpu_rows import FAILED, SKIPPED, Recorder, release, told
from measure import device_seconds
from roofline import (
    KEPT,
    LENGTHS,
    MODELS,
    SLASH,
    VERTICAL,
    WINDOW,
    Cost,
    Shape,
    gather_kv_cost,
    vertical_slash_cost,
    window_scores_cost,
)
from spec_rag_kernels import gather_kv, vertical_slash_attention, window_scores
from torch import Tensor

Calls = dict[str, Callable[[], object]]
# Of a shape, tokens, a device and a type: each way as a call, the kernel's bound, and the bytes that a way would hold.
Prepare = Callable[[Shape, int, str, torch.dtype], tuple[Calls, Cost, dict[str, float]]]
# A way that would hold more than this is left out: there is no such memory.
MOST_BYTES = 30e9


def run(recorder: Recorder, device: str) -> None:
    """Every operator at every shape, 64k tokens first."""
    small = device == "cpu"
    lengths = (256, 512) if small else (LENGTHS[1], LENGTHS[0], LENGTHS[2])
    shapes = (Shape("small", 4, 2, 64),) if small else MODELS
    torch.manual_seed(0)
    for tokens in lengths:
        for shape in shapes:
            for name, prepare in OPERATORS.items():
                _measure(recorder, device, shape, tokens, name, prepare)
                release()


def _measure(
    recorder: Recorder,
    device: str,
    shape: Shape,
    tokens: int,
    name: str,
    prepare: Prepare,
) -> None:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    try:
        calls, cost, held = prepare(shape, tokens, device, dtype)
    except Exception as error:
        recorder.add(f"{name}, {shape.model}, {tokens:,}", status=FAILED, note=told(error))
        return
    ours: list[float] = []
    for way, call in calls.items():
        case = f"{way}, {shape.model}, {tokens:,}"
        if held.get(way, 0.0) > MOST_BYTES:
            recorder.add(case, status=SKIPPED, note=f"would hold {held[way] / 1e9:,.0f} GB")
            continue

        def measure(call: Callable[[], object] = call, way: str = way) -> dict[str, Any]:
            with torch.no_grad():
                seconds = device_seconds(call, 3 if device == "cpu" else 15, device)
            figures: dict[str, Any] = {"µs": seconds * 1e6}
            if way == name:
                ours.append(seconds)
                if device != "cpu":
                    figures |= {
                        "bound µs": cost.bound_seconds * 1e6,
                        "of roofline": cost.bound_seconds / seconds,
                        "GB/s": cost.once / seconds / 1e9,
                        "TFLOP/s": cost.operations / seconds / 1e12,
                        "limited by": cost.limit,
                    }
            elif ours:
                figures["times ours"] = seconds / ours[0]
            return figures

        recorder.run(case, measure, expected_seconds=5)


def _tensors(shape: Shape, tokens: int, queries: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    query = torch.randn(1, shape.heads, queries, shape.dim, **options)
    key, value = (torch.randn(1, shape.key_heads, tokens, shape.dim, **options) for _ in range(2))
    return query, key, value


def _window_scores(shape: Shape, tokens: int, device: str, dtype: torch.dtype) -> tuple[Calls, Cost, dict[str, float]]:
    query, key, _ = _tensors(shape, tokens, min(WINDOW, tokens), device, dtype)
    scaling = shape.dim**-0.5
    calls: Calls = {
        "window_scores": lambda: window_scores(query, key, scaling=scaling, reduce_heads="kv"),
        "window_scores materialised": lambda: window_scores_benchmark.materialised(query, key, scaling),
    }
    return calls, window_scores_cost(shape, tokens)[0], {}


def _vertical_slash(shape: Shape, tokens: int, device: str, dtype: torch.dtype) -> tuple[Calls, Cost, dict[str, float]]:
    query, key, value = _tensors(shape, tokens, tokens, device, dtype)
    vertical, slash = (min(size, tokens // 4) for size in (VERTICAL, SLASH))
    # spread evenly, as the bound counts them
    columns = (torch.arange(vertical, device=device) * tokens // vertical).expand(1, shape.key_heads, -1).contiguous()
    scaling = shape.dim**-0.5

    def materialised() -> Tensor:
        return vertical_slash_attention(
            query, key, value, columns=columns, slash=slash, scaling=scaling, backend="naive"
        )

    calls: Calls = {
        "vertical_slash_attention": lambda: vertical_slash_attention(
            query, key, value, columns=columns, slash=slash, scaling=scaling
        ),
        "SDPA, dense, causal": lambda: F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        ),
        "vertical_slash_attention materialised": materialised,
    }
    ours, _, whole = vertical_slash_cost(shape, tokens)
    return calls, ours, {"vertical_slash_attention materialised": whole.once / 2}


def _gather_kv(
    name: str, kept: int, shape: Shape, tokens: int, device: str, dtype: torch.dtype
) -> tuple[Calls, Cost, dict[str, float]]:
    _, key, value = _tensors(shape, tokens, 1, device, dtype)
    order = torch.rand(1, shape.key_heads, tokens, device=device).argsort(dim=-1)[..., :kept]
    positions = order.sort(dim=-1).values
    index = positions[..., None].expand(-1, -1, -1, shape.dim)
    calls: Calls = {
        name: lambda: gather_kv(key, value, positions),
        f"{name} materialised": lambda: (key.gather(2, index.contiguous()), value.gather(2, index.contiguous())),
    }
    return calls, gather_kv_cost(shape, kept)[0], {}


def _gather_kv_to_capacity(
    shape: Shape, tokens: int, device: str, dtype: torch.dtype
) -> tuple[Calls, Cost, dict[str, float]]:
    return _gather_kv("gather_kv", min(KEPT, tokens // 2), shape, tokens, device, dtype)


def _gather_kv_to_an_eighth(
    shape: Shape, tokens: int, device: str, dtype: torch.dtype
) -> tuple[Calls, Cost, dict[str, float]]:
    return _gather_kv("gather_kv to an eighth", tokens // 8, shape, tokens, device, dtype)


OPERATORS: dict[str, Prepare] = {
    "window_scores": _window_scores,
    "vertical_slash_attention": _vertical_slash,
    "gather_kv": _gather_kv_to_capacity,
    # 1,024 of 64k are copied in the time that a launch takes; an eighth shows what the copy itself does
    "gather_kv to an eighth": _gather_kv_to_an_eighth,
}
