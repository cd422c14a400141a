"""Random calls of window_scores, vertical_slash_attention and gather_kv, and comparisons with the reference."""

import importlib
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from spec_rag_kernels import gather_kv, vertical_slash_attention, window_scores
from torch import Tensor

HEAD_DIMS = (64, 80, 96, 128, 256)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
KERNELS_PATH = str(Path(__file__).parents[2] / "kernels")
BENCHMARKS = Path(KERNELS_PATH) / "benchmarks"
# Older versions compile the kernels, but their interpreters fail with numpy 2.
INTERPRETER_SINCE = "3.7"


@dataclass
class Call:
    """Tensors and keywords of one call; str() shows the shapes in a failing test."""

    tensors: tuple[Tensor, ...]
    keywords: dict[str, Any]

    def __str__(self) -> str:
        shown = {
            name: (tuple(value.shape) if isinstance(value, Tensor) else value) for name, value in self.keywords.items()
        }
        return f"{self.tensors[0].dtype} {[tuple(tensor.shape) for tensor in self.tensors]} {shown}"

    def on(self, device: str) -> "Call":
        """The same call with its tensors on another device; strides are kept."""

        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        keywords = {name: moved(value) for name, value in self.keywords.items()}
        return Call(tuple(moved(tensor) for tensor in self.tensors), keywords)

    def in_float64(self) -> "Call":
        def wide(value: Any) -> Any:
            return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

        keywords = {name: wide(value) for name, value in self.keywords.items()}
        return Call(tuple(wide(tensor) for tensor in self.tensors), keywords)


class Draw:
    """The random choices of one case, determined by `seed` and `index`."""

    def __init__(self, seed: int, index: int, most_keys: int = 200, most_window: int = 70) -> None:
        self.index = index
        self.most_keys = most_keys
        self.most_window = most_window
        self.random = random.Random(f"{seed}/{index}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(31))
        # The cases cover every dtype and head dimension at any seed.
        self.dtype = DTYPES[index % len(DTYPES)]
        self.dim = HEAD_DIMS[index % len(HEAD_DIMS)]
        self.group = 1 + index % 8
        # The interpreter takes about a millisecond per tile, so large groups have small batches.
        self.batch = self.random.choice([1, 2, 3] if self.group <= 3 else [1, 1, 2])
        self.key_heads = self.random.choice([1, 2]) if self.group <= 4 else 1
        self.heads = self.key_heads * self.group

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.dtype)

    def keys_like(self, batch: int, heads: int, tokens: int) -> Tensor:
        """Contiguous, or like the views that models pass, transposed from [batch, tokens, heads, dim]."""
        if self.chance(0.5):
            return self.normal(batch, tokens, heads, self.dim).transpose(1, 2)
        return self.normal(batch, heads, tokens, self.dim)

    def padding(self, batch: int, tokens: int) -> Tensor:
        """bool [batch, tokens], left padded; a row may be all padding."""
        missing = torch.randint(0, tokens + 1, (batch, 1), generator=self.generator)
        return torch.arange(tokens) >= missing

    def scaling(self) -> float:
        return self.dim**-0.5 * self.random.choice([1.0, 1.0, 2.0])


def window_scores_call(draw: Draw) -> Call:
    keys = draw.random.randint(1, draw.most_keys)
    window = draw.random.choice([1, draw.random.randint(1, draw.most_window), draw.random.randint(1, 20)])
    window = min(window, keys)
    keywords: dict[str, Any] = {
        "scaling": draw.scaling(),
        "reduce_queries": draw.random.choice(["max", "sum"]),
        "reduce_heads": draw.random.choice(["none", "kv", "all"]),
        "head_reduction": draw.random.choice(["max", "sum"]),
    }
    if draw.chance(0.3):
        keywords["sliding_window"] = draw.random.randint(1, keys + 3)
    if draw.chance(0.5):
        shape = (window,) if draw.chance(0.5) else (draw.batch, window)
        keywords["query_weights"] = torch.rand(*shape, generator=draw.generator)
    if draw.chance(0.4):
        mask = draw.padding(draw.batch, window)
        keywords["query_mask"] = mask if draw.chance(0.5) else mask.flip(1)
    if draw.chance(0.4):
        keywords["key_mask"] = draw.padding(draw.batch, keys)
    if draw.chance(0.25):
        keywords["softcap"] = draw.random.choice([5.0, 50.0])
    if draw.chance(0.25):
        keywords["sinks"] = draw.normal(draw.heads)
    query = draw.keys_like(draw.batch, draw.heads, window)
    return Call((query, draw.keys_like(draw.batch, draw.key_heads, keys)), keywords)


def vertical_slash_call(draw: Draw) -> Call:
    tokens = draw.random.randint(1, draw.most_keys)
    count = draw.random.choice([0, draw.random.randint(0, tokens), draw.random.randint(0, min(tokens, 20))])
    keywords: dict[str, Any] = {
        "columns": random_positions(draw, tokens, count),
        "slash": draw.random.choice([1, draw.random.randint(1, tokens + 3), draw.random.randint(1, min(tokens, 24))]),
        "scaling": draw.scaling(),
    }
    if draw.chance(0.3):
        keywords["sliding_window"] = draw.random.randint(1, tokens + 3)
    if draw.chance(0.4):
        keywords["key_mask"] = draw.padding(draw.batch, tokens)
    if draw.chance(0.25):
        keywords["softcap"] = draw.random.choice([5.0, 50.0])
    if draw.chance(0.25):
        keywords["sinks"] = draw.normal(draw.heads)
    query = draw.keys_like(draw.batch, draw.heads, tokens)
    key, value = (draw.keys_like(draw.batch, draw.key_heads, tokens) for _ in range(2))
    return Call((query, key, value), keywords)


def gather_kv_call(draw: Draw) -> Call:
    tokens = draw.random.randint(1, draw.most_keys)
    kept = draw.random.choice([0, tokens, draw.random.randint(0, tokens), draw.random.randint(0, tokens)])
    positions = random_positions(draw, tokens, kept).sort(dim=-1).values
    key, value = (draw.keys_like(draw.batch, draw.key_heads, tokens) for _ in range(2))
    return Call((key, value, positions), {})


def random_positions(draw: Draw, tokens: int, count: int) -> Tensor:
    """int64 [batch, KV heads, count], unique, in random order."""
    order = torch.rand(draw.batch, draw.key_heads, tokens, generator=draw.generator).argsort(dim=-1)
    return order[..., :count].contiguous()


def check_window_scores(call: Call, backend: str) -> None:
    scores = window_scores(*call.tensors, **call.keywords, backend=backend)
    truth_call = call.in_float64()
    truth = window_scores(*truth_call.tensors, **truth_call.keywords, backend="naive")
    assert scores.dtype == torch.float32
    check_close(scores, truth, call.tensors[0].dtype, call)


def check_vertical_slash(call: Call, backend: str) -> None:
    out = vertical_slash_attention(*call.tensors, **call.keywords, backend=backend)
    truth_call = call.in_float64()
    truth = vertical_slash_attention(*truth_call.tensors, **truth_call.keywords, backend="naive")
    assert out.dtype == call.tensors[0].dtype
    check_close(out, truth, call.tensors[0].dtype, call)


def check_gather_kv(call: Call, backend: str) -> None:
    key, value, positions = call.tensors
    truth = gather_kv(key, value, positions, backend="naive")
    gathered = gather_kv(key, value, positions, backend=backend)
    for name, got, want in zip(("key", "value"), gathered, truth, strict=True):
        assert torch.equal(got, want), f"{name} differs: {call}"


def check_close(got: Tensor, truth: Tensor, dtype: torch.dtype, call: object) -> None:
    """Within the dtype's tolerance: absolute up to 1 and relative above."""
    assert got.shape == truth.shape, call
    error = ((got.double() - truth.double()).abs() / truth.double().abs().clamp(min=1.0)).max().item()
    assert error < TOLERANCE[dtype], f"error {error:.2e}: {call}"


def load_benchmark(name: str) -> ModuleType:
    """Import a script of kernels/benchmarks, whose imports of each other need its folder on the path."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module(name)
