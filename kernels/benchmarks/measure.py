"""Times and working memory for the benchmarks, measured side by side in one process."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def median_seconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median of each call. The calls take turns, so that a busy moment of the machine strikes all of them."""
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


def device_seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """The median of one call: on a GPU by device events, each after a write that empties its caches."""
    call()
    call()
    if device == "cpu":
        return median_seconds({"": call}, repeats)[""]
    flushed = torch.empty(2**28, dtype=torch.uint8, device=device)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for begin, end in events:
        flushed.zero_()  # and while it writes, the call is launched, so that launching is not measured
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1e3


def working_bytes(call: Callable[[], object]) -> int:
    """The most bytes that one call held at once, its result included and its arguments not.

    Every allocation and release that torch's allocator reports to the profiler, summed in the order of time; also those
    that an operator makes for itself. Packing buffers inside the BLAS library are not torch's and are not counted. The
    profiler sees one thread, so the call runs in one; window_scores divides its chunk among threads, so that more
    threads hold no more, and the materialised way does not depend on their number.
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
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def arguments(description: str | None, repeats: int, **defaults: int | str) -> argparse.Namespace:
    """What a benchmark is given: an option per default, and device, dtype and repeats. Seeds the random numbers."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    for name, default in {**defaults, "device": "cpu", "dtype": "float32", "repeats": repeats}.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    torch.manual_seed(0)
    return parser.parse_args()


def tensor_options(given: argparse.Namespace) -> dict[str, Any]:
    """Device and dtype as torch's factories take them."""
    return {"device": given.device, "dtype": getattr(torch, given.dtype)}


def compared(calls: dict[str, Callable[[], object]], base: str, given: argparse.Namespace) -> str:
    """A table of the calls' times and, on a CPU, working memory, beside those of the call named `base`."""
    with torch.no_grad():
        seconds = median_seconds(calls, given.repeats)
        held = {name: working_bytes(call) for name, call in calls.items()} if given.device == "cpu" else {}
    rows = [
        [name, f"{1e3 * seconds[name]:.2f}", f"{seconds[name] / seconds[base]:.2f}"]
        + ([f"{held[name] / 1e6:.2f}", f"{held[base] / held[name]:.1f}"] if held else ["-", "-"])
        for name in calls
    ]
    return table(["", "ms", "time / base", "working MB", "base / MB"], rows)


def conditions(given: argparse.Namespace) -> str:
    """Where and how often it was measured."""
    return f"{given.dtype}, {given.device}, {torch.get_num_threads()} threads, median of {given.repeats}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Plain text with aligned columns: the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in
                 enumerate(zip(row, widths, strict=True))]  # fmt: skip
        lines.append("  ".join(cells))
    return "\n".join(lines)
