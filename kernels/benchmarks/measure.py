"""Shapes, time and working memory of calls, tables, and the command line of the operator benchmarks."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

Calls = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Shape:
    """One attention layer of a model."""

    model: str
    heads: int
    key_heads: int
    dim: int

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.heads // self.key_heads


class MakeCalls(Protocol):
    """Calls to compare, on random tensors of a shape; keywords are the sizes of the operator."""

    def __call__(self, shape: Shape, tokens: int, options: dict[str, Any], **sizes: Any) -> Calls: ...


def median_seconds(calls: Calls, repeats: int) -> dict[str, float]:
    """The median of each call. The calls alternate, so that load on the machine affects all of them."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def device_seconds(call: Callable[[], object], device: str) -> float:
    """The median of one call; on a GPU by device events with flushed caches, without launch latency."""
    if device == "cpu":
        return median_seconds({"": call}, 3)[""]
    from triton.testing import do_bench

    return float(do_bench(call, return_mode="median")) / 1e3


def working_bytes(call: Callable[[], object]) -> int:
    """Peak bytes allocated by one call, with its result and without its arguments.

    Sums the allocations and releases that torch's allocator reports to the profiler, which excludes packing buffers of
    the BLAS library. The profiler sees one thread, so the call runs in one; window_scores divides its chunk among
    threads, so the thread count does not change the peak.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        call()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
            result = call()
        del result
    finally:
        torch.set_num_threads(threads)
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def compare(description: str | None, make_calls: MakeCalls, base: str, tokens: int, **sizes: int | str) -> None:
    """The command line of an operator benchmark: print time and, on a CPU, working memory relative to `base`.

    Every size is an option.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    shape = {"heads": 9, "key_heads": 3, "dim": 64}
    defaults = {**shape, "tokens": tokens, **sizes, "device": "cpu", "dtype": "float32", "repeats": 11}
    for name, default in defaults.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    arguments = vars(parser.parse_args())
    device, repeats = arguments["device"], arguments["repeats"]
    torch.manual_seed(0)
    calls = make_calls(
        Shape("", *(arguments[name] for name in shape)),
        arguments["tokens"],
        {"device": device, "dtype": getattr(torch, arguments["dtype"])},
        **{name: arguments[name] for name in sizes},
    )
    with torch.no_grad():
        seconds = median_seconds(calls, repeats)
        held = {name: working_bytes(call) for name, call in calls.items()} if device == "cpu" else {}
    rows = []
    for name in calls:
        memory = [f"{held[name] / 1e6:.2f}", f"{held[base] / held[name]:.1f}"] if held else ["", ""]
        rows.append([name, f"{1e3 * seconds[name]:.2f}", f"{seconds[name] / seconds[base]:.2f}", *memory])
    print(", ".join(f"{name} {value}" for name, value in arguments.items()) + f", {torch.get_num_threads()} threads")
    print(table(["call", "ms", "time / base", "working MB", "base / MB"], rows))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded cells; columns of numbers are aligned to the right."""
    rows = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    columns = list(zip(header, *rows, strict=True))
    numeric = [all(cell.lstrip("-")[:1].isdigit() or not cell for cell in column[1:]) for column in columns]
    widths = [max(3, *map(len, column)) for column in columns]
    widths[-1] = 1  # notes may be long
    lines = [
        "| " + " | ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)) + " |"
        for row in [header, *rows]
    ]
    rule = "|".join(
        "-" * (width + 1) + ":" if n else "-" * (width + 2) for width, n in zip(widths, numeric, strict=True)
    )
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])
