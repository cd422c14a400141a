"""Mixed requests on tiny models from several threads, and what is left of them: `make nightly`, or by hand.

    python tests/soak.py [--requests 1500] [--threads 4] [--seed N]

Every so many requests, when all have ended, the process is measured: resident memory, live tensors, threads, open
files, hooks on the models, transformers' registries, ContextVars, objects of the package's own classes. What is kept on
purpose is filled to its bounds before. After a warm-up nothing may grow; memory may by 2%. What grew is named, and the
exit status is 1.

On Linux the process starts anew with MALLOC_ARENA_MAX=1: an arena of glibc keeps the most that its threads ever needed,
free or not, and with many arenas resident memory says what was needed once and not what lives.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field, fields
from pathlib import Path

if __name__ == "__main__" and sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_ARENA_MAX": "1"})

sys.path[:0] = [
    str(Path(__file__).parent),
    *(str(Path(__file__).parents[1] / f) for f in ("", "kernels", "integrations")),
]

import torch  # noqa: E402
from soak_adapters import KINDS, Kind  # noqa: E402
from soak_requests import BOUNDS, opened  # noqa: E402
from torch import nn  # noqa: E402
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS  # noqa: E402
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: E402

OWN = ("spec_rag.", "langchain_spec_rag.", "llama_index.llms.spec_rag.", "llama_index.postprocessor.spec_rag.")
MEMORY_GROWTH = 0.02
SETTLING_SECONDS = 30.0  # for threads that end and connections that are closed


@dataclass(frozen=True)
class Measured:
    """The process between two rounds of requests, when none runs.

    Attributes:
        requests: made so far.
        resident_mib: of the process.
        tensor_kib: of all live tensors.
        threads, files: of the process.
        hooks: on any module of the models, replaced `forward` methods included.
        registered: attention functions and mask functions that transformers knows.
        variables: of the package, that some thread has left set.
        own: live objects of the package's own classes.
    """

    requests: int
    resident_mib: float
    tensor_kib: float
    threads: int
    files: int
    hooks: int
    registered: int
    variables: int
    own: Mapping[str, int] = field(default_factory=dict)


def measured(requests: int, models: Iterable[nn.Module], variables: int) -> Measured:
    gc.collect()
    with suppress(OSError, AttributeError):  # memory that is free but was kept by the allocator is no leak
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    objects = gc.get_objects()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in objects if _is_tensor(t)}
    own = Counter(kind.__qualname__ for kind in map(type, objects) if _is_own(kind))
    return Measured(
        requests,
        resident / 2**20,
        sum(storages.values()) / 2**10,
        threading.active_count(),
        len(os.listdir("/proc/self/fd")),
        sum(_hooks(module) for model in models for module in model.modules()),
        len(list(ALL_ATTENTION_FUNCTIONS.keys())) + len(list(ALL_MASK_ATTENTION_FUNCTIONS.keys())),
        variables,
        dict(own),
    )


def _is_tensor(one: object) -> bool:
    return issubclass(type(one), torch.Tensor) and type(one).__name__ != "FakeTensor"


def _is_own(kind: type) -> bool:
    return f"{kind.__module__}.".startswith(OWN)


def _hooks(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return sum(len(getattr(module, kind)) for kind in kinds) + ("forward" in module.__dict__)


def variables_set() -> int:
    """ContextVars of the package that this thread has left set."""
    return sum(variable.name.startswith("spec_rag") for variable in copy_context())


def grown(measures: Sequence[Measured]) -> list[str]:
    """What grew, one line each: every measure of the last third is above every one of the first; memory on average.

    What is kept on purpose, such as the last readings of a server, was at its bounds before.
    """
    third = max(1, len(measures) // 3)
    first, last = measures[:third], measures[-third:]
    found = []

    def compare(name: str, value: Callable[[Measured], float]) -> None:
        before, after = max(map(value, first)), min(map(value, last))
        if after > before:
            found.append(f"{name}: {before:,.0f} at most at first, {after:,.0f} at least at last")

    for name in ("tensor_kib", "threads", "files", "hooks", "registered", "variables"):
        compare(name, lambda one, name=name: getattr(one, name))  # type: ignore[misc]
    for kind in sorted({kind for one in last for kind in one.own}):
        compare(f"objects of {kind}", lambda one, kind=kind: one.own.get(kind, 0))  # type: ignore[misc]
    before, after = (sum(one.resident_mib for one in some) / len(some) for some in (first, last))
    if after > before * (1 + MEMORY_GROWTH):
        found.append(f"resident memory: {before:,.1f} MiB at first, {after:,.1f} MiB at last")
    return found


def soak(
    requests: int,
    *,
    every: int,
    threads: int = 4,
    seed: int = 0,
    kinds: Sequence[Kind] = KINDS,
    told: Callable[[Measured], None] = lambda one: None,
) -> list[Measured]:
    """Make so many requests of all kinds in turn, in shuffled rounds, and measure after each round of `every`.

    Raises:
        AssertionError: a request ended otherwise than it should, or the same question has another answer than before.
    """
    chance = random.Random(seed)
    order = [kinds[i % len(kinds)] for i in range(requests)]
    chance.shuffle(order)
    measures: list[Measured] = []
    with opened() as place, ThreadPoolExecutor(threads) as pool:
        expected = place.probe()

        def one(number: int) -> int:
            order[number](place, random.Random(f"{seed}/{number}"))
            return variables_set()

        for start in range(0, requests, every):
            left_set = sum(pool.map(_named(order, one), range(start, min(start + every, requests))))
            _until_quiet(measures)
            assert place.probe() == expected, "the same question has another answer"
            measures.append(measured(min(start + every, requests), place.models, left_set + variables_set()))
            told(measures[-1])
    return measures


def _named(order: Sequence[Kind], one: Callable[[int], int]) -> Callable[[int], int]:
    def run(number: int) -> int:
        try:
            return one(number)
        except BaseException as error:
            raise AssertionError(f"request {number}, {order[number].__name__}: {error!r}") from error

    return run


def _until_quiet(measures: Sequence[Measured]) -> None:
    """Wait until the threads of requests have ended, and, if they do, files are as few as before."""
    ends = time.monotonic() + SETTLING_SECONDS
    while time.monotonic() < ends:
        gc.collect()
        busy = any(thread.name.startswith("spec-rag") for thread in threading.enumerate())
        if not busy and (not measures or len(os.listdir("/proc/self/fd")) <= measures[0].files):
            return
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--every", type=int, default=50, help="requests between two measures")
    parser.add_argument("--warm-up", type=float, default=0.2, help="share of the requests that only fill caches")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--only", help="requests of one kind alone, by the name of its function")
    given = parser.parse_args()
    kinds = [kind for kind in KINDS if given.only in (None, kind.__name__)]
    columns = [one.name for one in fields(Measured) if one.name != "own"]
    print(f"seed {given.seed}", " ".join(f"{name:>12}" for name in columns), f"{'own':>8}", sep="\n", flush=True)

    def told(one: Measured) -> None:
        row = " ".join(f"{getattr(one, name):>12,.1f}" for name in columns)
        print(row, f"{sum(one.own.values()):>8}", flush=True)

    begun = time.monotonic()
    measures = soak(given.requests, every=given.every, threads=given.threads, seed=given.seed, kinds=kinds, told=told)
    warm = [one for one in measures if one.requests > given.warm_up * given.requests]
    found = grown(warm)
    first, last = warm[0].resident_mib, warm[-1].resident_mib
    print(
        f"{given.requests:,} requests in {time.monotonic() - begun:.0f} s, memory {last / first - 1:+.2%} after warm-up"
    )
    print(f"kept on purpose, and full before the first request: {BOUNDS}")
    print("\n".join(f"grew: {line}" for line in found) or "nothing grew")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
