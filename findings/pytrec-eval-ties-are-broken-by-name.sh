#!/usr/bin/env bash
# Library: pytrec-eval-terrier 0.5.11 (trec_eval)
#
# Guess, written before the run: documents with equal scores are evaluated in the order in which the run has them.
#
# Seen: equal scores are ordered by the document's name, descending, whatever the order of the run. Renaming one
#   irrelevant document from 'a' to 'z' changes the reciprocal rank from 0.5 to 0.33 and nDCG from 0.63 to 0.5.
#
# Why it matters: scores of compressors, rounded scores and binary judgements tie often. Two systems can differ by
#   their document ids alone; an evaluation should hand over scores without ties, for instance minus the rank.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check pytrec-eval-terrier==0.5.11 numpy==2.4.6
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

import pytrec_eval

print("pytrec-eval-terrier", version("pytrec-eval-terrier"))
judge = pytrec_eval.RelevanceEvaluator({"q": {"b": 1}}, {"recip_rank", "ndcg"})
seen = {}
for order in (["a", "b", "c"], ["b", "a", "c"], ["b", "z", "c"]):
    values = judge.evaluate({"q": dict.fromkeys(order, 1.0)})["q"]
    seen["".join(order)] = round(values["recip_rank"], 3)
    print(order, values)
assert seen == {"abc": 0.5, "bac": 0.5, "bzc": 0.333}
PY
"$work/venv/bin/python" -I "$work/check.py"
