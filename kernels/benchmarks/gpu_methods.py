"""The methods stage of `on_gpu.py`: whole answers on models of real shapes with random weights.

What a model says does not matter here; what it costs does not depend on its weights. On a CPU the models are tiny.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_rows import BY_ARITHMETIC, Recorder, release
from measure import median_seconds
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from spec_rag import ModelPair, SpecKVConfig, SpecPCConfig, generate_batch

NEW_TOKENS = 32
DEPTH: dict[str, Any] = {"starting_layer_index": 2}  # random weights have no layers that know more
# (hidden, feed-forward, layers, heads, KV heads, vocabulary, tied), by transformers' model type
SIZES: dict[str, tuple[str, tuple[int, int, int, int, int, int, bool]]] = {
    "1B": ("llama", (2048, 8192, 16, 32, 8, 128256, True)),
    "8B": ("llama", (4096, 14336, 32, 32, 8, 128256, False)),
    "0.5B": ("qwen2", (896, 4864, 24, 14, 2, 151936, True)),
    "14B": ("qwen2", (5120, 13824, 48, 40, 8, 152064, False)),
    "SmolLM2-135M": ("llama", (576, 1536, 30, 9, 3, 49152, True)),
    "tiny": ("llama", (64, 96, 4, 4, 2, 320, True)),
}
PAIRS = {"8B": ("1B", "8B"), "14B": ("0.5B", "14B")}
PLANNED = {"8B": ("Llama-3.2-1B", "Llama-3.1-8B"), "14B": ("Qwen2.5-0.5B", "Qwen2.5-14B")}


def model_of(size: str, device: str) -> PreTrainedModel:
    """A model of that size: bfloat16 on a GPU, float32 on a CPU; it never ends an answer by itself."""
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
    """Each method at a capacity, and what `generate_batch` is given for it."""
    window = min(64, capacity // 4)
    specpc = SpecPCConfig(max_capacity_prompt=capacity, window_size=window, **DEPTH)
    # how often random models agree says nothing, so no look-ahead is checked as a guess of the answer
    speckv = SpecKVConfig(max_capacity_prompt=capacity, verify_lookahead=False)
    whole = replace(speckv, prefill_vertical_size=2 * tokens)
    paper = replace(speckv, preset="paper")
    yield "SpecPC", {"specpc": specpc}
    yield "SpecKV", {"speckv": speckv}
    yield "SpecKV, paper's preset", {"speckv": paper}
    yield "SpecKV, dense prefill", {"speckv": whole}
    yield "SnapKV", {"speckv": SpecKVConfig(max_capacity_prompt=capacity, lookahead="none", preset="paper")}
    if 2 * capacity < tokens:
        wider = SpecPCConfig(max_capacity_prompt=2 * capacity, window_size=window, **DEPTH)
        yield "SpecKV-PC", {"specpc": wider, "speckv": speckv}


def run(recorder: Recorder, device: str, pair_name: str, small: bool) -> None:
    """Dense and every method, from the length that matters most to the others; then eight prompts in a batch."""
    arithmetic(recorder, pair_name)
    sizes = ("tiny", "tiny") if small else PAIRS[pair_name]
    lengths = (200, 400) if small else (65_536, 16_384, 32_768, 131_072)
    capacities = (48, 96) if small else (1024, 4096)
    pair = ModelPair(draft=model_of(sizes[0], device), target=model_of(sizes[1], device))
    # a first call of every way compiles kernels and warms up the libraries
    warm = 160 if small else 8192
    for name, options in [("dense", {}), *methods(capacities[0], warm)]:
        recorder.run(f"warm-up, {name}", partial(_answered, pair, warm, 1, device, options))
    slowest = 0.0  # seconds per token
    for tokens in lengths:
        expected = 2.5 * slowest * tokens
        measure = partial(_beside_dense, pair, tokens, device, {})
        begun = time.time()
        if recorder.run(f"dense, {pair_name}, {tokens:,}", partial(measure, "dense", {}), expected):
            slowest = max(slowest, (time.time() - begun) / tokens)
        eighth = SpecPCConfig(max_capacity_prompt=tokens // 8, window_size=min(64, tokens // 16), **DEPTH)
        way = partial(measure, "SpecPC", {"specpc": eighth})
        recorder.run(f"SpecPC 1/8, {pair_name}, {tokens:,}", way, expected)
        if tokens == lengths[0]:
            for name, way in _overheads(pair, tokens, capacities[0], device):
                recorder.run(f"{name}, {pair_name}, {tokens:,}", way, 3 * expected)
        for capacity in capacities:
            for name, options in methods(capacity, tokens):
                way = partial(measure, name, options)
                recorder.run(f"{name} to {capacity:,}, {pair_name}, {tokens:,}", way, expected)
    tokens = min(lengths)
    for name, options in [("dense", {}), *methods(capacities[0], tokens)]:
        way = partial(_answered, pair, tokens, 8, device, options)
        recorder.run(f"{name}, {pair_name}, 8 prompts of {tokens:,}", way, 10 * slowest * tokens)


def arithmetic(recorder: Recorder, pair_name: str, tokens: int = 65_536) -> None:
    """What operations and bytes allow, however fast the kernels are (docs/plan.md): dense, SpecPC and SpecKV."""
    from spec_rag.evaluation.planning.costs import Pair, dense, speckv, specpc
    from spec_rag.evaluation.planning.plan import device_of
    from spec_rag.evaluation.planning.shapes import model_shape

    draft, target = (model_shape(name) for name in PLANNED[pair_name])
    pair = Pair(draft, target, device_of("h200"))
    eighth = SpecPCConfig(max_capacity_prompt=tokens // 8)
    whole, short = dense(pair, tokens, NEW_TOKENS), specpc(pair, tokens, NEW_TOKENS, eighth)
    pruned = speckv(pair, tokens, NEW_TOKENS, SpecKVConfig(max_capacity_prompt=1024))
    for name, cost in (("SpecPC 1/8", short), ("SpecKV to 1,024", pruned)):
        figures = {
            "dense prefill over its, operations": whole.prefill_flops / cost.prefill_flops,
            "GB of weights and KV below dense": (whole.peak_bytes - cost.peak_bytes) / 1e9,
        }
        recorder.add(f"{BY_ARITHMETIC} {name}, {pair_name}, {tokens:,}", figures)


def _beside_dense(
    pair: ModelPair, tokens: int, device: str, dense: dict[str, float], name: str, options: dict[str, Any]
) -> dict[str, Any]:
    """One prompt's figures; `dense` carries the dense way's seconds from one call to the next."""
    figures = _answered(pair, tokens, 1, device, options)
    if name == "dense":
        dense["TTFT s"] = figures["TTFT s"]
    if "TTFT s" in dense:
        figures["times faster to first token"] = dense["TTFT s"] / figures["TTFT s"]
    return figures


def _prompts(pair: ModelPair, tokens: int, rows: int) -> list[Tensor]:
    words = pair.require_target().config.get_text_config().vocab_size
    chance = torch.Generator().manual_seed(tokens)
    return [torch.randint(10, words - 10, (tokens,), generator=chance) for _ in range(rows)]


def _answered(pair: ModelPair, tokens: int, rows: int, device: str, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds to the first token, tokens per second after it, and the most memory that was held."""
    prompts = _prompts(pair, tokens, rows)
    release()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        answers = generate_batch(pair, prompts, **options, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    timings = answers[0].timings
    written = sum(answer.completion_tokens - 1 for answer in answers)
    figures: dict[str, Any] = {
        "TTFT s": timings.draft_seconds + timings.prefill_seconds,
        "draft s": timings.draft_seconds,
        "tokens/s": written / timings.decode_seconds if timings.decode_seconds else None,
    }
    if device != "cpu":
        figures["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
    figures["kept MB"] = sum(answer.kv_bytes_kept for answer in answers) / 1e6
    return figures


def _overheads(
    pair: ModelPair, tokens: int, capacity: int, device: str
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A prefill as it is, and the same under capture with what each method does beside: medians of three."""
    from transformers import DynamicCache

    from spec_rag.generation.draft import read_rows
    from spec_rag.generation.prefill import prefill

    target, (prompt,) = pair.require_target(), _prompts(pair, tokens, 1)
    ids = prompt[None].to(device)

    def timed(call: Callable[[], object]) -> float:
        return median_seconds({"": call}, 3)[""]

    def dense() -> object:
        with torch.no_grad():
            return target.get_decoder()(input_ids=ids, past_key_values=DynamicCache(), use_cache=True)

    def pruned() -> object:
        config = SpecKVConfig(max_capacity_prompt=capacity, prefill_vertical_size=2 * tokens, lookahead="none")
        nothing = torch.empty(1, 0, dtype=torch.long)
        positions = torch.arange(tokens)[None]
        return prefill(target, ids, torch.ones_like(ids), positions, nothing, nothing.bool(), config)

    def scored() -> object:
        return read_rows(pair, [prompt], SpecPCConfig(window_size=min(64, capacity // 4), max_capacity_prompt=capacity,
                                                      **DEPTH), 1)  # fmt: skip

    for name, base, way in (
        ("overhead of SpecKV's capture and selection", dense, pruned),
        ("overhead of SpecPC's capture", lambda: read_rows(pair, [prompt], None, 1), scored),
    ):

        def measure(base: Any = base, way: Any = way) -> dict[str, Any]:
            plain, seconds = timed(base), timed(way)
            return {"TTFT s": seconds, "overhead": seconds / plain - 1}

        yield name, measure


def compression(recorder: Recorder, device: str, small: bool) -> None:
    """Thirty documents and a question on a draft of SmolLM2's shape: read cold, and from an index."""
    sys.path.append(str(Path(__file__).parents[2] / "tests"))
    from tiny import tiny_tokenizer

    from benchmarks.costs import generated_documents
    from spec_rag import DocumentIndex, compress
    from spec_rag.compression.draft import Draft

    # one token per byte stands in for a tokenizer that may not be there; the draft reads as many tokens
    pair = ModelPair(draft=model_of("tiny" if small else "SmolLM2-135M", device), tokenizer=tiny_tokenizer())
    draft = Draft.of(pair)
    count, length = (4, 100) if small else (30, 500)
    documents = generated_documents(draft, count, length)
    question = "Where was the town founded?"

    def timed(index: DocumentIndex | None) -> float:
        begun = time.perf_counter()
        compress(documents, question, draft=draft, ratio=0.25, index=index, calibration=None)
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    def measure() -> dict[str, Any]:
        timed(None)
        index = DocumentIndex()
        cold = timed(index)
        indexed = sorted(timed(index) for _ in range(3))[1]
        return {"cold s": cold, "indexed s": indexed, "cold / indexed": cold / indexed}

    recorder.run(f"{count} documents of {length} tokens", measure)
