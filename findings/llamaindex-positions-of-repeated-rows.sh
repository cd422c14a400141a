#!/usr/bin/env bash
# Library: llama-index-core 0.14.25, SentenceSplitter
#
# Guess, written before the run: where the same words occur several times, each chunk has its own start_char_idx,
#   and without an overlap the ranges do not overlap.
#
# Seen: a chunk is looked up from one character after the start of the chunk before, so a chunk that repeats is
#   placed inside its neighbour. In a table with equal rows the ranges overlap and most of the table's end is in
#   none.
#
# Why it matters: positions of chunks feed citations and the merging of neighbours. In tables, logs and forms they
#   point at the wrong row.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check llama-index-core==0.14.25
cat > "$work/check.py" <<'PY'
import logging
from importlib.metadata import version

from llama_index.core import Document
from llama_index.core.node_parser import SentenceSplitter

logging.disable(logging.CRITICAL)
print("llama-index-core", version("llama-index-core"))
TEXT = "\n".join(f"| item | price {price} |" for price in (1, 1, 1, 2, 1, 1, 3, 1))
splitter = SentenceSplitter(chunk_size=10, chunk_overlap=0, tokenizer=str.split, include_metadata=False)
nodes = splitter.get_nodes_from_documents([Document(text=TEXT)])
ranges = [(node.start_char_idx, node.end_char_idx) for node in nodes]
print("chunks together:", sum(len(node.text) for node in nodes), "characters of", len(TEXT))
print("ranges:", ranges)
overlaps = sum(max(0, first[1] - second[0]) for first, second in zip(ranges, ranges[1:]))
print("characters in two ranges:", overlaps)
assert all(TEXT[start:end] == node.text for (start, end), node in zip(ranges, nodes))
assert sum(len(node.text) for node in nodes) <= len(TEXT)
assert overlaps > 20
PY
"$work/venv/bin/python" -I "$work/check.py"
