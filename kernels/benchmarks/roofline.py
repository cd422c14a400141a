"""Bytes, operations and the bound on an H100 of each kernel, from the kernels' own tilings; writes kernels/ROOFLINE.md.

    python kernels/benchmarks/roofline.py [--check]

A computation and not a measurement. Needs neither a GPU nor triton.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from spec_rag_kernels.gather_kv.tiling import COPY_TILES
from spec_rag_kernels.vertical_slash_attention.tiling import attention_tiles
from spec_rag_kernels.window_scores.tiling import key_ranges, logsumexp_tiles, reduce_tiles

BYTES_PER_SECOND = 3.35e12
OPERATIONS_PER_SECOND = 989e12
# of a warp: four by each of 132 multiprocessors in a cycle
INSTRUCTIONS_PER_SECOND = 4 * 132 * 1.755e9
PAGE = Path(__file__).parents[1] / "ROOFLINE.md"
DTYPE, ELEMENT = torch.bfloat16, 2

WINDOW = 64
VERTICAL = SLASH = 2048
KEPT = 1024
LENGTHS = (16_384, 65_536, 131_072)


@dataclass(frozen=True)
class Shape:
    """One attention layer of a model."""

    model: str
    heads: int
    key_heads: int
    dim: int

    @property
    def group(self) -> int:
        return self.heads // self.key_heads


MODELS = (Shape("Llama-3.1-8B", 32, 8, 128), Shape("Qwen2.5-14B", 40, 8, 128))


@dataclass(frozen=True)
class Cost:
    """What one call takes. `once` reads every input once; `loaded` is what the programs ask for, as if no cache
    shared it.

    `operations` counts whole tiles: also the padding of the last one, which is computed and thrown away.
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
    """The two passes together, and the materialised softmax-and-reduce."""
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
    # Every row block reads every key; every range reads its rows.
    first_loaded = row_blocks * key_bytes + ranges * query_bytes + partial
    # Every block of keys is read once, and reads all rows of its group with one number each.
    second_loaded = key_bytes + key_blocks * (query_bytes + 4 * shape.heads * WINDOW) + out
    first_keys = ranges * range_keys
    first_operations = 2 * shape.key_heads * row_blocks * first.rows * first_keys * shape.dim
    second_rows = shape.group * blocks(WINDOW, second.rows) * second.rows
    second_operations = 2 * shape.key_heads * second_rows * key_blocks * second.keys * shape.dim
    pairs = shape.heads * WINDOW * keys
    # Keys repeated for the query heads, logits in bfloat16 (scaled, masked), probabilities in float32, reduced.
    repeated = shape.heads * keys * per_key
    materialised = key_bytes + 2 * repeated + query_bytes + 3 * 2 * pairs + 2 * 4 * pairs + out
    return [
        # Between the passes the keys of a long prompt no longer fit into the cache, so they are read twice.
        Cost("window_scores", 2 * key_bytes + 2 * query_bytes + 2 * partial + out, first_loaded + second_loaded,
             first_operations + second_operations),
        Cost("materialised", materialised, materialised, 2 * pairs * shape.dim),
    ]  # fmt: skip


def vertical_slash_cost(shape: Shape, tokens: int) -> list[Cost]:
    """The kernel with columns spread evenly, dense flash attention, and the materialised masked softmax."""
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
    materialised = once + 2 * shape.heads * tokens * per_token + (2 * 2 + 2 * 4) * pairs
    return [
        Cost("vertical_slash_attention", once, shape.heads * loaded + query_bytes, shape.heads * operations),
        Cost("dense flash attention, causal", once, once, flash),
        Cost("materialised", materialised, materialised, 4 * pairs * shape.dim),
    ]


def gather_kv_cost(shape: Shape, kept: int) -> list[Cost]:
    """The copy, and torch.gather with one int64 index for every number; the prompt's length does not matter."""
    moved = 2 * 2 * shape.key_heads * kept * shape.dim * ELEMENT
    index = 8 * shape.key_heads * kept
    loaded = moved + 8 * shape.key_heads * blocks(kept, COPY_TILES.keys) * COPY_TILES.keys
    expanded = 2 * 8 * shape.key_heads * kept * shape.dim
    return [
        Cost("gather_kv", moved + index, loaded, 0.0),
        Cost("materialised", moved + index + expanded, moved + index + expanded, 0.0),
    ]


def issue_seconds(kernel: str, instructions_per_logit: float) -> float:
    """What a compiled kernel takes at 65,536 tokens of Llama-3.1-8B to issue its instructions alone, whatever it loads
    and multiplies.

    Args:
        kernel: as `compile_ahead.py` calls it.
        instructions_per_logit: per thread, of its loop.
    """
    shape, tokens = MODELS[0], LENGTHS[1]
    if kernel.startswith("window_scores"):
        logits: float = shape.heads * WINDOW * tokens
    else:
        logits = vertical_slash_cost(shape, tokens)[0].operations / (4 * shape.dim)
    return logits * instructions_per_logit / 32 / INSTRUCTIONS_PER_SECOND


def page() -> str:
    first, second = logsumexp_tiles(DTYPE, 128), reduce_tiles(DTYPE, 128)
    attention = attention_tiles(DTYPE, 128)
    lines = [
        "# Roofline",
        "",
        "Computed by `kernels/benchmarks/roofline.py` from the kernels' own tilings; nothing was measured on a GPU.",
        f"One attention layer, batch 1, bfloat16, on an H100 with {BYTES_PER_SECOND / 1e12:.2f} TB/s and "
        f"{OPERATIONS_PER_SECOND / 1e12:.0f} TFLOP/s: no kernel can be",
        "faster than the larger of bytes / bandwidth and operations / arithmetic.",
        "",
        f"- `window_scores`: window {WINDOW}, reduced per KV head; tiles {first.rows} x {first.keys} in the first pass "
        f"and {second.rows} x {second.keys} in the second.",
        f"- `vertical_slash_attention`: vertical {VERTICAL}, slash {SLASH}, columns spread evenly; tiles "
        f"{attention.rows} x {attention.keys}.",
        f"- `gather_kv`: {KEPT} kept entries per KV head, whatever the prompt's length.",
        "- *Bytes* count every input and output once (for `window_scores` the keys once per pass). *Loaded* is what",
        "  the programs ask for; the caches must serve the rest for the bound to hold, and *uncached* is the bound",
        "  if they serve nothing.",
        "- *Operations* count whole tiles. The materialised ways hold what the formula says: repeated keys, every",
        "  logit and every probability.",
    ]
    for title, cost in (
        ("window_scores", window_scores_cost),
        ("vertical_slash_attention", vertical_slash_cost),
        ("gather_kv", lambda shape, tokens: gather_kv_cost(shape, KEPT)),
    ):
        lines += [
            "",
            f"## {title}",
            "",
            "| model | tokens | way | bytes (MB) | loaded (MB) | operations (GFLOP) | bound (µs) | uncached (µs) | "
            "limited by |",
            "|---|--:|---|--:|--:|--:|--:|--:|---|",
        ]
        for shape in MODELS:
            for tokens in LENGTHS:
                for row in cost(shape, tokens):
                    lines.append(
                        f"| {shape.model} | {tokens:,} | {row.name} | {row.once / 1e6:,.1f} | "
                        f"{row.loaded / 1e6:,.1f} | {row.operations / 1e9:,.1f} | {row.bound_seconds * 1e6:,.1f} | "
                        f"{row.bound_seconds_uncached * 1e6:,.1f} | {row.limit} |"
                    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare with the page instead of writing it")
    arguments = parser.parse_args()
    if not arguments.check:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit(f"{PAGE} does not fit the tilings any more; run {Path(__file__).name}")


if __name__ == "__main__":
    main()
