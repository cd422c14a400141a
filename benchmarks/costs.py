"""Seconds and memory of an index, a prefill, a decode and a batch, measured in one run.

Figures are Markdown. Seconds depend on the machine, ratios less so.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from spec_rag.calibration.generated_questions import generated_questions
from spec_rag.compression.compress import compress
from spec_rag.compression.document_draft import Draft
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.compression.kv_quantization import StorageType
from spec_rag.compression.passage_encoding import index_documents
from spec_rag.evaluation.metrics import holds_answer
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.evaluation.speed import seconds
from spec_rag.generation.chunked_feed_forward import chunked_feed_forward
from spec_rag.generation.draft_pass import read_rows
from spec_rag.generation.generate import generate, generate_batch
from spec_rag.generation.prefill import prefill
from spec_rag.generation.prompt_batch import Batch, PaddedPrompts
from spec_rag.generation.request import GenerationRequest
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import CompressionConfig, SpecKVConfig, SpecPCConfig
from spec_rag.text.documents import Document
from spec_rag.text.tokenization import text_ids

_FREED = {"MALLOC_MMAP_THRESHOLD_": str(256 * 1024)}  # glibc: larger blocks are the system's own, as soon as freed
COMPRESSED_SHARE = 0.25  # of the documents' tokens, in what is timed


def storage(draft: Draft, questions: Sequence[AnsweredQuestion], part: int = 8) -> str:
    """Markdown, per precision of an index: bytes, answers kept at 1/part, and how often float32 keeps the same."""
    lines = [
        f"| {len(questions)} questions, 1/{part} kept | MiB per 1,000 tokens | answer kept | same text as float32 |",
        "|---|---|---|---|",
    ]
    exact: list[str] = []
    for precision in get_args(StorageType):
        kept, tokens, held = [], 0, 0
        for asked in questions:
            index = DocumentIndex(storage=precision)
            tokens += index_documents(asked.documents, draft, index, CompressionConfig()).tokens
            held += index.held_bytes
            ask = partial(compress, asked.documents, asked.question, draft=draft, index=index)
            kept.append(ask(ratio=1 / part).text)
        exact = exact or kept
        right = sum(holds_answer(text, asked.answers) for text, asked in zip(kept, questions, strict=True))
        same = sum(one == other for one, other in zip(kept, exact, strict=True))
        share = right / len(questions)
        lines.append(f"| {precision} | {held / 2**20 / tokens * 1000:.2f} | {share:.3f} | {same} of {len(kept)} |")
    return "\n".join(lines)


def generated_documents(draft: Draft, count: int, tokens: int) -> list[Document]:
    """Documents of so many of the draft's tokens each, made of generated sentences."""
    texts = (d.text for case in generated_questions(count, seed=1) for d in case.documents)
    documents = []
    for number in range(count):
        ids: list[int] = []
        while len(ids) < tokens:
            ids += text_ids(draft.tokenizer, next(texts) + " ")
        documents.append(Document(str(draft.tokenizer.decode(ids[:tokens])), title=f"Collection {number + 1}"))
    return documents


def growth(draft: Draft, counts: Sequence[int], tokens: int) -> str:
    """Markdown: seconds of `compress` over more and more documents (once; median of three), and a line's fit."""
    documents = generated_documents(draft, max(counts), tokens)
    compress(documents[:2], "Where was the town founded?", draft=draft)
    cold: list[float] = []
    query: list[float] = []
    for count in counts:
        call = partial(
            compress,
            documents[:count],
            "Where was the town founded?",
            draft=draft,
            index=DocumentIndex(storage="float32", memory_bytes=16 * 2**30),
            ratio=1 / 16,
        )
        cold.append(seconds(call))
        query.append(statistics.median(seconds(call) for _ in range(3)))
    lines = [
        f"| documents of {tokens} tokens | " + " | ".join(map(str, counts)) + " | line through them | R² |",
        "|---|" + "---|" * (len(counts) + 2),
    ]
    for label, times in (("no index, seconds", cold), ("indexed, seconds", query)):
        slope, start = statistics.linear_regression(counts, times)
        fit = statistics.correlation(counts, times) ** 2
        cells = " | ".join(f"{value:.2f}" for value in times)
        lines.append(f"| {label} | {cells} | {start:.2f} + {slope:.4f} n | {fit:.4f} |")
    return "\n".join(lines)


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
    target = pair.require_target()
    config = SpecKVConfig(max_capacity_prompt=capacity, prefill_vertical_size=len(prompt))
    return prefill(target, PaddedPrompts.of(target, Batch.of([prompt])), (nothing, nothing.bool()), config)


def memory(tokens: int = 8000, chunk: int = 512) -> str:
    """Peak memory above the loaded model, each way in a process of its own.

    On Linux the processes give what they free back at once, so that the peak is of what lives.
    """
    peaks = {}
    for way in ("dense", "pruned"):
        for size in (None, chunk):
            code = f"from spec_rag.evaluation import speed; print(speed.prefill_peak({way!r}, {tokens}, {size}))"
            command = [sys.executable, "-c", code]
            told = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | _FREED).stdout
            peaks[way, size] = int(told.split()[-1])
    names = {"dense": "dense", "pruned": "pruned to 512 per head"}
    lines = [f"| prefill of {tokens:,} tokens | peak above the model | ratio |", "|---|---|---|"]
    for (way, size), peak in peaks.items():
        name = names[way] + (f", chunks of {size}" if size else "")
        lines.append(f"| {name} | {peak / 2**20:.0f} MiB | {peak / peaks['dense', None]:.2f} |")
    return "\n".join(lines)


def prefill_peak(way: str, tokens: int, chunk: int | None = None) -> int:
    """Bytes of memory that a prefill, "dense" or "pruned", takes above the loaded model, in a fresh process."""
    run = {"dense": _dense_prefill, "pruned": _pruned_prefill}[way]
    pair = ModelPair.load()
    run(pair, _prompt(pair, 64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with chunked_feed_forward([pair.target], chunk):
        kept = run(pair, _prompt(pair, tokens))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del kept
    return (peak - before) * 1024


def batch(rows: int = 8, tokens: int = 400, new_tokens: int = 32) -> str:
    """Generated tokens per second of the same prompts one by one and in a batch."""
    pair = ModelPair.load()
    speckv = SpecKVConfig(max_capacity_prompt=128, lookahead="none")
    prompts = [_prompt(pair, tokens - 10 * i, i) for i in range(rows)]
    arguments: dict[str, Any] = {"speckv": speckv, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    generate(pair, prompts[0], **arguments)
    started = time.perf_counter()
    for prompt in prompts:
        generate(pair, prompt, **arguments)
    alone = time.perf_counter() - started
    started = time.perf_counter()
    generate_batch(pair, prompts, **arguments)
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
    prompt = _prompt(pair, tokens)
    ways: dict[str, Callable[[], object]] = {
        "plain prefill and one token": lambda: read_rows(GenerationRequest(pair), [prompt], 1),
        "the same, scored for SpecPC": lambda: read_rows(GenerationRequest(pair, specpc=SpecPCConfig()), [prompt], 1),
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
