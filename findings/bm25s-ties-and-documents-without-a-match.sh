#!/usr/bin/env bash
# Library: bm25s 0.3.16, rank-bm25 0.2.2
#
# Guess, written before the run: equal scores come lowest index first, and documents without a match are not
#   returned.
#
# Seen: twelve equal documents come in no order of the index, and adding documents without the query word reorders
#   them; the first of them is not among the top 3. rank-bm25's get_top_n shows the same. Both fill up to k with
#   documents of score 0.
#
# Why it matters: with duplicates, short passages or one-word queries, an unrelated document that is added to the
#   index changes which passages are kept; rank fusion gives full credit to documents that match nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check rank-bm25==0.2.2 bm25s==0.3.16 numpy==2.4.6
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

import bm25s
from rank_bm25 import BM25Okapi

print("bm25s", version("bm25s"), "rank-bm25", version("rank-bm25"))


def orders(others):
    documents = [["fee", "x"]] * 12 + [["other", "y"]] * others
    index = bm25s.BM25()
    index.index(documents, show_progress=False)
    found, scores = index.retrieve([["fee"]], k=15, show_progress=False)
    assert len(set(scores[0][:12].tolist())) == 1 and scores[0][14] == 0
    return list(map(int, found[0])), BM25Okapi(documents).get_top_n(["fee"], list(range(len(documents))), n=15)


few, many = orders(13), orders(28)
for name, first, second in zip(("bm25s", "rank-bm25"), few, many):
    print(f"{name}: with 13 other documents {first}, with 28 {second}")
    for order in (first, second):
        assert set(order[:12]) == set(range(12)) and order[:12] != list(range(12)) and len(order) == 15
assert few[0][:12] != many[0][:12]
PY
"$work/venv/bin/python" -I "$work/check.py"
