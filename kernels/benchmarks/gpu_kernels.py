"""Kernel stages of `gpu_run.py`: the tests marked `gpu`, each kernel's time against its roofline, and other tile sizes.

Shapes and bounds are those of `roofline.py`. On a CPU the shapes are small and no bound is shown.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gather_kv
import torch
import vertical_slash_attention
import window_scores
from gpu_results import FAILED, NO_TIME, OK, SKIPPED, Recorder, error_line, free_memory
from measure import Calls, Shape, device_seconds
from roofline import (
    KEPT,
    LENGTHS,
    MODELS,
    SLASH,
    VERTICAL,
    WINDOW,
    Cost,
    gather_kv_cost,
    vertical_slash_cost,
    window_scores_cost,
)
from spec_rag_kernels.tiles import Tiles

ROOT = Path(__file__).parents[2]
TESTS = ("tests/kernels/test_on_device.py", "tests/test_on_device.py")
SMALL = Shape("small", 4, 2, 64)


class RowPerTest:
    """A pytest plugin that runs every n-th test, records a row as each ends, and stops at the deadline."""

    def __init__(self, recorder: Recorder, shard: int, shards: int) -> None:
        self.recorder, self.shard, self.shards = recorder, shard, shards

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = items[self.shard :: self.shards]

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.replace("::", " ").removeprefix("tests/")
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            note = " ".join(str(crash.message if crash else report.longrepr).split())[:300]
            self.recorder.add(name, status=FAILED, note=f"{report.when}: {note}")
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.recorder.add(name, status=SKIPPED, note=reason.removeprefix("Skipped: "))
        elif report.when == "call":
            self.recorder.add(name, status=OK)

    def pytest_runtest_protocol(self, item: Any) -> bool | None:
        if self.recorder.seconds_left > 0:
            return None
        self.recorder.add(item.nodeid.removeprefix("tests/"), status=SKIPPED, note=NO_TIME)
        return True


def correctness(recorder: Recorder, arguments: argparse.Namespace) -> None:
    """Run one shard of the tests."""
    import pytest

    options = ["-q", "-p", "no:cacheprovider", "--no-header", "--tb=short", "-m", "gpu", "--rootdir", str(ROOT)]
    plugin = RowPerTest(recorder, arguments.shard["index"], arguments.shard["count"])
    code = pytest.main([*options, *(str(ROOT / file) for file in TESTS)], plugins=[plugin])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        recorder.add("the test run", status=FAILED, note=f"pytest ended with {code!s}")


def _window_scores(shape: Shape, tokens: int, options: dict[str, Any]) -> tuple[Calls, Cost]:
    return window_scores.calls(shape, tokens, options, window=WINDOW), window_scores_cost(shape, tokens)[0]


def _vertical_slash(shape: Shape, tokens: int, options: dict[str, Any]) -> tuple[Calls, Cost]:
    sizes = {"vertical": min(VERTICAL, tokens // 4), "slash": min(SLASH, tokens // 4)}
    return vertical_slash_attention.calls(shape, tokens, options, **sizes), vertical_slash_cost(shape, tokens)[0]


def _gather_kv(share: int | None, shape: Shape, tokens: int, options: dict[str, Any]) -> tuple[Calls, Cost]:
    kept = tokens // share if share else min(KEPT, tokens // 2)
    return gather_kv.calls(shape, tokens, options, kept=kept), gather_kv_cost(shape, kept)[0]


Prepare = Callable[[Shape, int, dict[str, Any]], tuple[Calls, Cost]]
# The first call of each operator is the kernel, the others are baselines.
OPERATORS: dict[str, Prepare] = {
    "window_scores": _window_scores,
    "vertical_slash_attention": _vertical_slash,
    "gather_kv": partial(_gather_kv, None),
    # Copying 1,024 of 64k entries takes as long as a launch; an eighth measures the copy.
    "gather_kv of an eighth": partial(_gather_kv, 8),
}


def times(recorder: Recorder, arguments: argparse.Namespace) -> None:
    """Time every operator at every shape, 64k tokens first."""
    device = arguments.device
    lengths = (256, 512) if device == "cpu" else (LENGTHS[1], LENGTHS[0], LENGTHS[2])
    for tokens in lengths:
        for shape in (SMALL,) if device == "cpu" else MODELS:
            for name, prepare in OPERATORS.items():
                try:
                    _time_operator(recorder, name, prepare, shape, tokens, device)
                except Exception as error:
                    recorder.add(f"{name}, {shape.model}, {tokens:,}", status=FAILED, note=error_line(error))
                free_memory()


def _options(device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    return {"device": device, "dtype": torch.float32 if device == "cpu" else torch.bfloat16}


def _time_operator(recorder: Recorder, name: str, prepare: Prepare, shape: Shape, tokens: int, device: str) -> None:
    calls, cost = prepare(shape, tokens, _options(device))
    kernel = next(iter(calls))
    seconds: dict[str, float] = {}

    def measure(call_name: str) -> dict[str, Any]:
        with torch.no_grad():
            seconds[call_name] = device_seconds(calls[call_name], device)
        figures: dict[str, Any] = {"µs": seconds[call_name] * 1e6}
        if call_name == kernel and device != "cpu":
            figures |= {
                "bound µs": cost.bound_seconds * 1e6,
                "of roofline": cost.bound_seconds / seconds[kernel],
                "GB/s": cost.once / seconds[kernel] / 1e9,
                "TFLOP/s": cost.operations / seconds[kernel] / 1e12,
                "limited by": cost.limit,
            }
        elif call_name != kernel and kernel in seconds:
            baseline = "dense" if "dense" in call_name else "materialized"
            figures[f"{baseline} / ours"] = seconds[call_name] / seconds[kernel]
        return figures

    for call_name in calls:
        label = name if call_name == kernel else f"{name}: {call_name}"
        recorder.run(f"{label}, {shape.model}, {tokens:,}", partial(measure, call_name), expected_seconds=5)


@dataclass(frozen=True)
class Tunable:
    """A tile choice of a kernel: the attribute of a module of `spec_rag_kernels`, and candidate values.

    A candidate is (rows, keys, warps, stages), or a number for an attribute that is not a tile.
    """

    operator: str
    module: str
    attribute: str
    candidates: tuple[tuple[int, int, int, int] | int, ...]


TUNABLES = (
    Tunable("window_scores", "window_scores.triton", "logsumexp_tiles", (
        (64, 64, 4, 2), (64, 128, 4, 2), (128, 64, 4, 3), (128, 64, 8, 2), (128, 128, 8, 2), (256, 64, 8, 2),
        (256, 64, 8, 3),
    )),
    Tunable("window_scores", "tiles", "MAX_PROGRAMS", (264, 528, 1056)),
    Tunable("window_scores", "window_scores.triton", "reduce_tiles", (
        (64, 64, 4, 2), (64, 128, 4, 3), (64, 128, 8, 2), (64, 256, 8, 2), (64, 256, 4, 2), (32, 128, 4, 3),
    )),
    Tunable("vertical_slash_attention", "vertical_slash_attention.triton", "attention_tiles", (
        (128, 32, 8, 2), (128, 64, 8, 2), (128, 64, 8, 4), (64, 64, 4, 2), (64, 64, 4, 3), (64, 32, 4, 3),
    )),
    Tunable("gather_kv of an eighth", "gather_kv.triton", "GATHER_TILES", (
        (1, 16, 4, 1), (1, 16, 8, 1), (1, 32, 8, 1), (1, 64, 4, 1), (1, 64, 8, 1),
    )),
)  # fmt: skip


def tilings(recorder: Recorder, arguments: argparse.Namespace) -> None:
    """Run each kernel at one long shape with its own tiles and with each candidate, changing one choice at a time.

    A candidate whose result differs has failed. On a CPU the interpreter checks the results only.
    """
    from triton.runtime.errors import OutOfResources

    on_cpu = arguments.device == "cpu"
    shape, tokens = (SMALL, 150) if on_cpu else (MODELS[0], LENGTHS[1])
    for tunable in TUNABLES:
        calls, cost = OPERATORS[tunable.operator](shape, tokens, _options(arguments.device))
        call = next(iter(calls.values()))
        default, expected = 0.0, None
        for candidate in (None, *tunable.candidates):
            case = f"{tunable.operator}, {tunable.attribute}: {'default' if candidate is None else candidate}"
            if recorder.seconds_left < 3:
                recorder.add(case, status=SKIPPED, note=NO_TIME)
                continue
            figures = {}
            try:
                with torch.no_grad(), tuned(tunable, candidate):
                    result = call()
                    expected = result if expected is None else expected
                    torch.testing.assert_close(result, expected, atol=1e-2, rtol=1e-2)
                    if not on_cpu:
                        seconds = device_seconds(call, arguments.device)
                        default = default or seconds
                        figures = {"µs": seconds * 1e6, "speedup": default / seconds}
                        figures["of roofline"] = cost.bound_seconds / seconds
                recorder.add(case, figures)
            except OutOfResources as error:
                recorder.add(case, status=SKIPPED, note=str(error))
            except AssertionError as error:
                recorder.add(case, status=FAILED, note=error_line(error))
        free_memory()


@contextmanager
def tuned(tunable: Tunable, candidate: tuple[int, int, int, int] | int | None) -> Iterator[None]:
    """Set a tile choice within the block; None keeps the default."""
    if candidate is None:
        yield
        return
    module = import_module(f"spec_rag_kernels.{tunable.module}")
    value = Tiles(*candidate) if isinstance(candidate, tuple) else candidate
    is_function = callable(getattr(module, tunable.attribute))
    with patch.object(module, tunable.attribute, (lambda *_: value) if is_function else value):
        yield
