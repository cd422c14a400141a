"""What SpecKV costs and saves, side by side in one run: memory of the prefill, batches, and where the seconds go.

    python -m spec_rag.evaluation.benchmarks memory     peak memory of the prefill, dense and pruned
    python -m spec_rag.evaluation.benchmarks batch      tokens per second, one by one and in a batch
    python -m spec_rag.evaluation.benchmarks profile    seconds of SpecPC's and SpecKV's stages over the plain prefill

Prints Markdown. It does not judge: figures depend on the machine, ratios less so.
"""

from __future__ import annotations

import contextlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from spec_rag.config import SpecKVConfig, SpecPCConfig
from spec_rag.draft import read_prompts
from spec_rag.generation import generate, generate_batch
from spec_rag.models import ModelPair
from spec_rag.prefill import prefill


def _prompt(pair: ModelPair, tokens: int, seed: int = 0) -> Tensor:
    words = pair.require_target().config.get_text_config().vocab_size
    return torch.randint(100, words, (tokens,), generator=torch.Generator().manual_seed(seed))


def _dense_prefill(pair: ModelPair, prompt: Tensor) -> object:
    from transformers import DynamicCache

    cache = DynamicCache()
    with torch.no_grad():
        pair.require_target().get_decoder()(input_ids=prompt[None], past_key_values=cache, use_cache=True)
    return cache


def _pruned_prefill(pair: ModelPair, prompt: Tensor, capacity: int = 512) -> object:
    nothing = torch.empty(1, 0, dtype=torch.long)
    config = SpecKVConfig(max_capacity_prompt=capacity, prefill_vertical_size=len(prompt))
    positions = torch.arange(len(prompt))[None]
    ones = torch.ones(1, len(prompt), dtype=torch.long)
    return prefill(pair.require_target(), prompt[None], ones, positions, nothing, nothing.bool(), config)


def memory(tokens: int = 8000) -> str:
    """Peak memory above the loaded model, each way in a process of its own."""
    peaks = {}
    for way in ("dense", "pruned"):
        command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, f"_peak_{way}", str(tokens)]
        peaks[way] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    ratio = peaks["pruned"] / peaks["dense"]
    return (
        f"| prefill of {tokens:,} tokens | peak above the model |\n|---|---|\n"
        f"| dense | {peaks['dense'] / 2**20:.0f} MiB |\n"
        f"| pruned to 512 per head | {peaks['pruned'] / 2**20:.0f} MiB |\n"
        f"| ratio | {ratio:.2f} |"
    )


def _peak(way: Callable[[ModelPair, Tensor], object], tokens: int) -> int:
    pair = ModelPair.load()
    way(pair, _prompt(pair, 64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = way(pair, _prompt(pair, tokens))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del kept
    return (peak - before) * 1024


def batch(rows: int = 8, tokens: int = 400, new_tokens: int = 32) -> str:
    """Generated tokens per second of the same prompts one by one and in a batch."""
    pair = ModelPair.load()
    speckv = SpecKVConfig(max_capacity_prompt=128, lookahead="none")
    prompts = [_prompt(pair, tokens - 10 * i, i) for i in range(rows)]
    arguments = {"speckv": speckv, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    generate(pair, prompts[0], **arguments)  # type: ignore[arg-type]
    started = time.perf_counter()
    for prompt in prompts:
        generate(pair, prompt, **arguments)  # type: ignore[arg-type]
    alone = time.perf_counter() - started
    started = time.perf_counter()
    generate_batch(pair, prompts, **arguments)  # type: ignore[arg-type]
    together = time.perf_counter() - started
    made = rows * new_tokens
    return (
        f"| {rows} prompts of about {tokens} tokens | new tokens per second |\n|---|---|\n"
        f"| one by one | {made / alone:.1f} |\n"
        f"| one batch | {made / together:.1f} |\n"
        f"| ratio | {alone / together:.2f} |"
    )


def profile(tokens: int = 4096, runs: int = 3) -> str:
    """Seconds of the plain prefill, and of the same prefill under capture with SpecPC's and SpecKV's work."""
    pair = ModelPair.load()
    draft = pair.require_draft("the profile")
    prompt = _prompt(pair, tokens)
    ones = torch.ones(1, tokens, dtype=torch.long)
    ways: dict[str, Callable[[], object]] = {
        "plain prefill and one token": lambda: read_prompts(draft, prompt[None], ones, specpc=None, lookahead_tokens=1),
        "the same, scored for SpecPC": lambda: read_prompts(
            draft, prompt[None], ones, specpc=SpecPCConfig(), lookahead_tokens=1
        ),
        "plain prefill": lambda: _dense_prefill(pair, prompt),
        "the same, scored and pruned for SpecKV": lambda: _pruned_prefill(pair, prompt),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if run:
                seconds[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    names = list(ways)
    rows = [f"| {name} | {middle[name]:.2f} |" for name in names]
    over = [middle[names[i + 1]] / middle[names[i]] - 1 for i in (0, 2)]
    return "\n".join(
        [
            f"| {tokens:,} tokens | seconds, median of {runs} |",
            "|---|---|",
            *rows,
            f"| overhead of SpecPC | {over[0]:+.1%} |",
            f"| overhead of SpecKV | {over[1]:+.1%} |",
        ]
    )


if __name__ == "__main__":
    name, *rest = sys.argv[1:] or ["profile"]
    with contextlib.suppress(KeyError):
        way = {"_peak_dense": _dense_prefill, "_peak_pruned": _pruned_prefill}[name]
        print(_peak(way, int(rest[0])))
        raise SystemExit
    benchmarks: dict[str, Callable[..., str]] = {"memory": memory, "batch": batch, "profile": profile}
    print(benchmarks[name](*map(int, rest)))
