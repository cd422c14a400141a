"""Bytes, operations and roofline bound of each kernel on an H100, from its tile sizes; writes kernels/ROOFLINE.md.

    python kernels/benchmarks/roofline.py

The figures are computed, not measured. Neither a GPU nor triton is needed.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from measure import Shape, table
from spec_rag_kernels.tiles import GATHER_TILES, attention_tiles, key_ranges, logsumexp_tiles, reduce_tiles

BYTES_PER_SECOND = 3.35e12
OPERATIONS_PER_SECOND = 989e12
PAGE = Path(__file__).parents[1] / "ROOFLINE.md"
DTYPE, ELEMENT = torch.bfloat16, 2

WINDOW = 64
VERTICAL = SLASH = 2048
KEPT = 1024
LENGTHS = (16_384, 65_536, 131_072)


MODELS = (Shape("Llama-3.1-8B", 32, 8, 128), Shape("Qwen2.5-14B", 40, 8, 128))


@dataclass(frozen=True)
class Cost:
    """Memory traffic and arithmetic of one call.

    Attributes:
        name: of the implementation.
        once: bytes with every input read and every output written once.
        loaded: bytes that the programs request, as if no cache shared them.
        operations: floating-point operations of whole tiles, including padding.
    """

    name: str
    once: float
    loaded: float
    operations: float

    @property
    def bound_seconds(self) -> float:
        return max(self.once / BYTES_PER_SECOND, self.operations / OPERATIONS_PER_SECOND)

    @property
    def bound_seconds_uncached(self) -> float:
        return max(self.loaded / BYTES_PER_SECOND, self.operations / OPERATIONS_PER_SECOND)

    @property
    def limit(self) -> str:
        return "memory" if self.once / BYTES_PER_SECOND >= self.operations / OPERATIONS_PER_SECOND else "arithmetic"


def blocks(length: int, size: int) -> int:
    return -(-length // size)


def window_scores_cost(shape: Shape, keys: int) -> list[Cost]:
    """The two passes together, and the materialized softmax and reduction."""
    rows, per_key = shape.group * WINDOW, shape.dim * ELEMENT
    first = logsumexp_tiles(DTYPE, shape.dim).clipped(rows, keys)
    second = reduce_tiles(DTYPE, shape.dim).clipped(WINDOW, keys)
    row_blocks = blocks(rows, first.rows)
    ranges, range_keys = key_ranges(keys, row_blocks * shape.key_heads, first)
    key_bytes = shape.key_heads * keys * per_key
    query_bytes = shape.heads * WINDOW * per_key
    partial = 4 * ranges * shape.heads * WINDOW
    out = 4 * shape.key_heads * keys
    key_blocks = blocks(keys, second.keys)
    # Each row block reads all keys; each key range reads its rows.
    first_loaded = row_blocks * key_bytes + ranges * query_bytes + partial
    # Each key block is read once, and reads all rows of its group with one offset each.
    second_loaded = key_bytes + key_blocks * (query_bytes + 4 * shape.heads * WINDOW) + out
    first_keys = ranges * range_keys
    first_operations = 2 * shape.key_heads * row_blocks * first.rows * first_keys * shape.dim
    second_rows = shape.group * blocks(WINDOW, second.rows) * second.rows
    second_operations = 2 * shape.key_heads * second_rows * key_blocks * second.keys * shape.dim
    pairs = shape.heads * WINDOW * keys
    # Keys repeated for the query heads, logits in bfloat16 (scaled, masked), probabilities in float32, reduced.
    repeated = shape.heads * keys * per_key
    materialized = key_bytes + 2 * repeated + query_bytes + 3 * 2 * pairs + 2 * 4 * pairs + out
    return [
        # The keys of a long prompt exceed the cache, so each pass reads them again.
        Cost("window_scores", 2 * key_bytes + 2 * query_bytes + 2 * partial + out, first_loaded + second_loaded,
             first_operations + second_operations),
        Cost("materialized", materialized, materialized, 2 * pairs * shape.dim),
    ]  # fmt: skip


def vertical_slash_cost(shape: Shape, tokens: int) -> list[Cost]:
    """The kernel with evenly spaced columns, dense flash attention, and the materialized masked softmax."""
    tiles = attention_tiles(DTYPE, shape.dim).clipped(tokens, tokens)
    per_token = shape.dim * ELEMENT
    loaded = operations = 0.0
    for block in range(blocks(tokens, tiles.rows)):
        last = min((block + 1) * tiles.rows, tokens) - 1
        columns = int(VERTICAL * max(0, last - SLASH + 1) / tokens)
        band = last + 1 - max(0, block * tiles.rows - SLASH + 1)
        seen = blocks(columns, tiles.keys) + blocks(band, tiles.keys)
        loaded += 2 * (columns + band) * per_token + 4 * columns + tiles.rows * per_token
        operations += 4 * tiles.rows * seen * tiles.keys * shape.dim
    query_bytes, key_bytes = shape.heads * tokens * per_token, shape.key_heads * tokens * per_token
    once = 2 * query_bytes + 2 * key_bytes
    pairs = shape.heads * tokens * tokens
    flash = 4 * shape.dim * pairs / 2
    materialized = once + 2 * shape.heads * tokens * per_token + (2 * 2 + 2 * 4) * pairs
    return [
        Cost("vertical_slash_attention", once, shape.heads * loaded + query_bytes, shape.heads * operations),
        Cost("dense flash attention, causal", once, once, flash),
        Cost("materialized", materialized, materialized, 4 * pairs * shape.dim),
    ]


def gather_kv_cost(shape: Shape, kept: int) -> list[Cost]:
    """The copy, and torch.gather with one int64 index per number; independent of the prompt length."""
    moved = 2 * 2 * shape.key_heads * kept * shape.dim * ELEMENT
    index = 8 * shape.key_heads * kept
    loaded = moved + 8 * shape.key_heads * blocks(kept, GATHER_TILES.keys) * GATHER_TILES.keys
    expanded = 2 * 8 * shape.key_heads * kept * shape.dim
    return [
        Cost("gather_kv", moved + index, loaded, 0.0),
        Cost("materialized", moved + index + expanded, moved + index + expanded, 0.0),
    ]


def page() -> str:
    first, second = logsumexp_tiles(DTYPE, 128), reduce_tiles(DTYPE, 128)
    attention = attention_tiles(DTYPE, 128)
    lines = [
        "# Roofline",
        "",
        "Computed by `kernels/benchmarks/roofline.py` from the kernels' tile sizes; nothing was measured on a GPU.",
        f"One attention layer, batch 1, bfloat16, on an H100 with {BYTES_PER_SECOND / 1e12:.2f} TB/s and "
        f"{OPERATIONS_PER_SECOND / 1e12:.0f} TFLOP/s. The bound is the",
        "larger of bytes / bandwidth and operations / peak arithmetic.",
        "",
        f"- `window_scores`: window {WINDOW}, reduced per KV head; tiles {first.rows} x {first.keys} in the first pass "
        f"and {second.rows} x {second.keys} in the second.",
        f"- `vertical_slash_attention`: vertical {VERTICAL}, slash {SLASH}, evenly spaced columns; tiles "
        f"{attention.rows} x {attention.keys}.",
        f"- `gather_kv`: {KEPT} kept entries per KV head, at any prompt length.",
        "- *Bytes* count each input and output once (for `window_scores` the keys once per pass). *Loaded* is what the",
        "  programs request. The bound assumes that caches serve the difference; *uncached* is the bound without them.",
        "- *Operations* count whole tiles. The materialized baselines store repeated keys, all logits and all",
        "  probabilities.",
    ]
    for title, cost in (
        ("window_scores", window_scores_cost),
        ("vertical_slash_attention", vertical_slash_cost),
        ("gather_kv", lambda shape, tokens: gather_kv_cost(shape, KEPT)),
    ):
        rows = [
            [shape.model, f"{tokens:,}", row.name, f"{row.once / 1e6:,.1f}", f"{row.loaded / 1e6:,.1f}",
             f"{row.operations / 1e9:,.1f}", f"{row.bound_seconds * 1e6:,.1f}",
             f"{row.bound_seconds_uncached * 1e6:,.1f}", row.limit]
            for shape in MODELS for tokens in LENGTHS for row in cost(shape, tokens)
        ]  # fmt: skip
        header = ["model", "tokens", "implementation", "bytes (MB)", "loaded (MB)", "operations (GFLOP)", "bound (µs)",
                  "uncached (µs)", "limited by"]  # fmt: skip
        lines += ["", f"## {title}", "", table(header, rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
