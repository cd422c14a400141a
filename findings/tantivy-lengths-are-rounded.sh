#!/usr/bin/env bash
# Library: tantivy 0.27.0 (Python), bm25s 0.3.16
#
# Guess, written before the run: documents of 100 and of 103 words that hold the query word once have different
#   BM25 scores.
#
# Seen: they tie, as do 40 and 41 words. The length of a document is stored in one byte on a rounded scale, so
#   within a step of it all lengths count alike; bm25s keeps the exact length and gives different scores.
#
# Why it matters: scores of the two engines cannot be compared to the last digit, and chunks of nearly equal
#   length tie in Tantivy, so that insertion order decides.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check tantivy==0.27.0 bm25s==0.3.16 numpy==2.4.6
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

import bm25s
import tantivy

print("tantivy", version("tantivy"), "bm25s", version("bm25s"))
LENGTHS = (20, 21, 40, 41, 100, 103, 107)
documents = [["fee"] + [f"w{length}x{n}" for n in range(length - 1)] for length in LENGTHS]
builder = tantivy.SchemaBuilder()
builder.add_text_field("text", stored=True)
index = tantivy.Index(builder.build())
writer = index.writer(heap_size=15_000_000, num_threads=1)
for words in documents:
    writer.add_document(tantivy.Document(text=" ".join(words)))
writer.commit()
index.reload()
searcher = index.searcher()
hits = searcher.search(index.parse_query("fee", ["text"]), 20).hits
scores = {len(searcher.doc(address)["text"][0].split()): score for score, address in hits}
other = bm25s.BM25()
other.index(documents, show_progress=False)
exact = dict(zip(LENGTHS, other.get_scores(["fee"])))
for length in LENGTHS:
    print(f"{length:4} words: tantivy {scores[length]:.6f}, bm25s {exact[length]:.6f}")
assert scores[20] > scores[21] > scores[40]
assert scores[40] == scores[41] and scores[100] == scores[103] > scores[107]
assert exact[40] > exact[41] and exact[100] > exact[103]
PY
"$work/venv/bin/python" -I "$work/check.py"
