"""Method stages of `gpu_run.py`: whole answers and compression, on models of real shapes with random weights.

The cost of an answer does not depend on the weights. On a CPU the models are tiny.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_results import Recorder, free_memory
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from spec_rag import Document, DocumentIndex, ModelPair, SpecKVConfig, SpecPCConfig, compress, generate_batch

NEW_TOKENS = 32
DEPTH: dict[str, Any] = {"starting_layer_index": 2}  # with random weights no layer is better than another
# (hidden, feed-forward, layers, heads, KV heads, vocabulary, tied), by transformers' model type
SIZES: dict[str, tuple[str, tuple[int, int, int, int, int, int, bool]]] = {
    "1B": ("llama", (2048, 8192, 16, 32, 8, 128256, True)),
    "8B": ("llama", (4096, 14336, 32, 32, 8, 128256, False)),
    "0.5B": ("qwen2", (896, 4864, 24, 14, 2, 151936, True)),
    "14B": ("qwen2", (5120, 13824, 48, 40, 8, 152064, False)),
    "SmolLM2-135M": ("llama", (576, 1536, 30, 9, 3, 49152, True)),
    "tiny": ("llama", (64, 96, 4, 4, 2, 320, True)),
}
DRAFTS = {"8B": "1B", "14B": "0.5B"}


def random_model(size: str, device: str) -> PreTrainedModel:
    """A model of this size without an end token: bfloat16 on a GPU, float32 on a CPU."""
    kind, (hidden, inner, layers, heads, key_heads, words, tied) = SIZES[size]
    config = AutoConfig.for_model(
        kind,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=hidden // heads,
        vocab_size=words,
        tie_word_embeddings=tied,
        max_position_embeddings=2**18,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    return model.to(device).eval()


def methods(capacity: int, tokens: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method at a capacity, and its arguments of `generate_batch`."""
    specpc = _specpc(capacity, min(64, capacity // 4))
    # Random models rarely agree, so no look-ahead is verified as a draft of the answer.
    speckv = SpecKVConfig(max_capacity_prompt=capacity, verify_lookahead=False)
    yield "dense", {}
    yield "SpecPC", {"specpc": specpc}
    yield "SpecKV", {"speckv": speckv}
    yield "SpecKV, paper's preset", {"speckv": replace(speckv, preset="paper")}
    yield "SpecKV, dense prefill", {"speckv": replace(speckv, prefill_vertical_size=2 * tokens)}
    yield "SnapKV", {"speckv": SpecKVConfig(max_capacity_prompt=capacity, lookahead="none", preset="paper")}
    if 2 * capacity < tokens:
        yield "SpecKV-PC", {"specpc": replace(specpc, max_capacity_prompt=2 * capacity), "speckv": speckv}


def _specpc(capacity: int, window: int) -> SpecPCConfig:
    return SpecPCConfig(max_capacity_prompt=capacity, window_size=window, **DEPTH)


def answers(recorder: Recorder, arguments: argparse.Namespace) -> None:
    """Time dense and every method, the most important length first; then eight prompts in a batch."""
    device, name = arguments.device, recorder.stage.removeprefix("answers-")
    small = device == "cpu"
    draft, target = ("tiny", "tiny") if small else (DRAFTS[name], name)
    lengths = (200, 400) if small else (65_536, 16_384, 32_768, 131_072)
    capacities = (48, 96) if small else (1024, 4096)
    pair = ModelPair(draft=random_model(draft, device), target=random_model(target, device))
    # The first call of every method compiles kernels and warms up libraries.
    warm_up = 160 if small else 8192
    for method, options in methods(capacities[0], warm_up):
        recorder.run(f"warm-up, {method}", partial(_answer, pair, warm_up, 1, options))
    dense_ttft: dict[int, float] = {}

    def answer(tokens: int, method: str, options: dict[str, Any]) -> dict[str, Any]:
        figures = _answer(pair, tokens, 1, options)
        if method == "dense":
            dense_ttft[tokens] = figures["TTFT s"]
        if tokens in dense_ttft:
            figures["TTFT speedup"] = dense_ttft[tokens] / figures["TTFT s"]
        return figures

    seconds_per_token = 0.0
    for tokens in lengths:
        expected = 2.5 * seconds_per_token * tokens
        begin = time.time()
        if recorder.run(f"dense, {name}, {tokens:,}", partial(answer, tokens, "dense", {}), expected):
            seconds_per_token = max(seconds_per_token, (time.time() - begin) / tokens)
        eighth = {"specpc": _specpc(tokens // 8, min(64, tokens // 16))}
        recorder.run(f"SpecPC 1/8, {name}, {tokens:,}", partial(answer, tokens, "SpecPC", eighth), expected)
        if tokens == lengths[0]:
            overhead = partial(_overhead, pair, tokens, capacities[0])
            recorder.run(f"capture and selection, {name}, {tokens:,}", overhead, 6 * expected)
        for capacity in capacities:
            for method, options in methods(capacity, tokens):
                if options:
                    case = f"{method} to {capacity:,}, {name}, {tokens:,}"
                    recorder.run(case, partial(answer, tokens, method, options), expected)
    tokens = min(lengths)
    for method, options in methods(capacities[0], tokens):
        run = partial(_answer, pair, tokens, 8, options)
        recorder.run(f"{method}, {name}, 8 prompts of {tokens:,}", run, 10 * seconds_per_token * tokens)


def _generate(pair: ModelPair, tokens: int, rows: int, options: dict[str, Any]) -> list[Any]:
    words = pair.require_target().config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(tokens)
    prompts = [torch.randint(10, words - 10, (tokens,), generator=generator) for _ in range(rows)]
    with torch.no_grad():
        return generate_batch(pair, prompts, **options, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)


def _answer(pair: ModelPair, tokens: int, rows: int, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds to the first token, tokens per second after it, peak memory and kept KV bytes."""
    free_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    results = _generate(pair, tokens, rows, options)
    timings = results[0].timings
    written = sum(result.completion_tokens - 1 for result in results)
    figures: dict[str, Any] = {
        "TTFT s": timings.draft_seconds + timings.prefill_seconds,
        "draft s": timings.draft_seconds,
        "tokens/s": written / timings.decode_seconds if timings.decode_seconds else None,
    }
    if torch.cuda.is_available():
        figures["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
    figures["kept MB"] = sum(result.kv_bytes_kept for result in results) / 1e6
    return figures


def _overhead(pair: ModelPair, tokens: int, capacity: int) -> dict[str, Any]:
    """Time of a dense prefill with SpecKV's capture and selection over one without, minus 1; medians of three."""
    captured = SpecKVConfig(max_capacity_prompt=capacity, prefill_vertical_size=2 * tokens, lookahead="none")

    def seconds(options: dict[str, Any]) -> float:
        return statistics.median(_generate(pair, tokens, 1, options)[0].timings.prefill_seconds for _ in range(3))

    plain, pruned = seconds({}), seconds({"speckv": captured})
    return {"TTFT s": pruned, "overhead": pruned / plain - 1}


def compression(recorder: Recorder, arguments: argparse.Namespace) -> None:
    """Compress thirty documents with a draft of SmolLM2's shape, without and with an index."""
    sys.path.append(str(Path(__file__).parents[2] / "tests"))
    from tiny import tiny_tokenizer

    small = arguments.device == "cpu"
    count, length = (4, 100) if small else (30, 500)
    # The tokenizer has one token per byte and needs no download.
    draft = ModelPair(
        draft=random_model("tiny" if small else "SmolLM2-135M", arguments.device), tokenizer=tiny_tokenizer()
    )
    sentences = "The town was founded by {0} settlers. Its mill burned down {0} years later. "
    documents = [
        Document("".join(sentences.format(100 * number + i) for i in range(length))[:length], title=f"Town {number}")
        for number in range(count)
    ]

    def seconds(index: DocumentIndex | None) -> float:
        begin = time.perf_counter()
        question = "Where was the town founded?"
        compress(documents, question, draft=draft, ratio=0.25, index=index, calibration=None)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    def measure() -> dict[str, Any]:
        seconds(None)
        index = DocumentIndex()
        cold = seconds(index)
        indexed = statistics.median(seconds(index) for _ in range(3))
        return {"cold s": cold, "indexed s": indexed, "cold / indexed": cold / indexed}

    recorder.run(f"{count} documents of {length} tokens", measure)
