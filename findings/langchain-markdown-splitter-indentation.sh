#!/usr/bin/env bash
# Library: langchain-text-splitters 1.1.3, MarkdownHeaderTextSplitter
#
# Guess, written before the run: the indentation inside a fenced code block is kept, and a nested list keeps its
#   nesting.
#
# Seen: every line is stripped. Python code in a fence loses its indentation and no longer parses; a nested list
#   becomes flat.
#
# Why it matters: a model that reads the retrieved chunk sees broken code and a list whose levels are gone, and
#   the chunk is no substring of the source.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check langchain-text-splitters==1.1.3 langchain-core==1.8.3
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

from langchain_text_splitters import MarkdownHeaderTextSplitter

print("langchain-text-splitters", version("langchain-text-splitters"))
CODE = "def f(x):\n    if x:\n        return 1\n    return 2"
LIST = "- fees\n  - adults\n    - groups"
(chunk,) = MarkdownHeaderTextSplitter([("#", "title")]).split_text(f"# Guide\n\n```python\n{CODE}\n```\n\n{LIST}\n")
print(chunk.page_content)
assert CODE not in chunk.page_content and "def f(x):\nif x:\nreturn 1\nreturn 2" in chunk.page_content
assert LIST not in chunk.page_content and "- fees\n- adults\n- groups" in chunk.page_content
PY
"$work/venv/bin/python" -I "$work/check.py"
