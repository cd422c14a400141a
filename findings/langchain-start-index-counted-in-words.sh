#!/usr/bin/env bash
# Library: langchain-text-splitters 1.1.3, RecursiveCharacterTextSplitter(add_start_index=True)
#
# Guess, written before the run: with a length function that counts words (or tokens) and an overlap, start_index
#   is the place of every chunk.
#
# Seen: every chunk that begins with an overlap has start_index -1. The search for the chunk starts at the end of
#   the one before less the overlap, and the overlap is counted in words, not in characters.
#
# Why it matters: citations and highlights slice the source by start_index. With -1 the slice text[-1:...] is
#   silently empty or wrong.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check langchain-text-splitters==1.1.3 langchain-core==1.8.3
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

from langchain_text_splitters import RecursiveCharacterTextSplitter

print("langchain-text-splitters", version("langchain-text-splitters"))
TEXT = (
    "The first paragraph says a thing about opening hours of museums.\n\n"
    "The second paragraph says another thing about prices for children.\n\n"
    "The third paragraph ends the text with a remark about dogs and bicycles inside."
)
lost = {}
for overlap in (0, 4):
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=9, chunk_overlap=overlap, add_start_index=True, length_function=lambda text: len(text.split())
    )
    chunks = splitter.create_documents([TEXT])
    for chunk in chunks:
        print(f"overlap {overlap}: start_index {chunk.metadata['start_index']:4}, true {TEXT.index(chunk.page_content):4}")
    lost[overlap] = sum(chunk.metadata["start_index"] == -1 for chunk in chunks)
print("chunks with start_index -1:", lost)
assert lost[0] == 0 and lost[4] == 3
PY
"$work/venv/bin/python" -I "$work/check.py"
