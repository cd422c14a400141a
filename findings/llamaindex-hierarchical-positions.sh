#!/usr/bin/env bash
# Library: llama-index-core 0.14.25, HierarchicalNodeParser
#
# Guess, written before the run: the start_char_idx of a leaf node counts from the start of the source document.
#
# Seen: it counts from the start of the parent node, at every level. Leaves of different parents share the same
#   positions; a root node has positions in the document.
#
# Why it matters: AutoMergingRetriever users who slice the source file by a leaf's positions get text of another
#   section. The parent's position must be added.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check llama-index-core==0.14.25
cat > "$work/check.py" <<'PY'
import logging
from importlib.metadata import version

from llama_index.core import Document
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceSplitter, get_leaf_nodes

logging.disable(logging.CRITICAL)
print("llama-index-core", version("llama-index-core"))
TEXT = "\n\n\n".join(f"Section {n} begins with a remark. It goes on with rule {n}, and ends after {n} words." for n in range(1, 7))


def level(size):
    return SentenceSplitter(chunk_size=size, chunk_overlap=0, tokenizer=str.split, include_metadata=False)


parser = HierarchicalNodeParser.from_defaults(node_parser_ids=["big", "small"], node_parser_map={"big": level(36), "small": level(12)})
nodes = parser.get_nodes_from_documents([Document(text=TEXT)])
parents = {node.node_id: node for node in nodes}
wrong = right_with_parent = 0
leaves = get_leaf_nodes(nodes)
for leaf in leaves:
    parent = parents[leaf.parent_node.node_id]
    start = leaf.start_char_idx
    print(f"leaf {leaf.text[:22]!r:26} start_char_idx {start:4}, in the document {TEXT.index(leaf.text):4}")
    wrong += TEXT[start : leaf.end_char_idx] != leaf.text
    right_with_parent += parent.text[start : leaf.end_char_idx] == leaf.text
print("leaves:", len(leaves), "wrong in the document:", wrong, "right in the parent:", right_with_parent)
assert wrong >= len(leaves) // 2 and right_with_parent == len(leaves)
PY
"$work/venv/bin/python" -I "$work/check.py"
