#!/usr/bin/env bash
# Library: rank-bm25 0.2.2, BM25Okapi
#
# Guess, written before the run: of two documents, the one that holds the query word scores higher; scores are
#   never negative, since negative weights are replaced.
#
# Seen: with two documents a word in one of them has weight log(1) = 0, so both score 0. Where most words are in
#   most documents the replacement is a fraction of the average weight, which is negative itself: the matching
#   document scores below one without a match. bm25s 0.3.16 ranks both cases right.
#
# Why it matters: reranking the few passages of one question, or a test with two or three documents, returns ties
#   or the wrong document, and rank fusion believes the order.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check rank-bm25==0.2.2 bm25s==0.3.16 numpy==2.4.6
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

import bm25s
from rank_bm25 import BM25Okapi

print("rank-bm25", version("rank-bm25"), "bm25s", version("bm25s"))


def scores(documents, query):
    other = bm25s.BM25()
    other.index(documents, show_progress=False)
    return list(BM25Okapi(documents).get_scores(query)), list(other.get_scores(query))


two = scores([["dogs", "wait", "outside"], ["the", "fee", "rises"]], ["fee"])
print("two documents, the second matches:   ", two)
three = scores([["fee", "is"], ["fee", "is"], ["is", "closed"]], ["fee"])
print("three documents, the first two match:", three)
assert two[0] == [0, 0] and two[1][1] > two[1][0]
assert three[0][0] < 0 == three[0][2] and three[1][0] > three[1][2]
PY
"$work/venv/bin/python" -I "$work/check.py"
