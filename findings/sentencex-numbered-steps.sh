#!/usr/bin/env bash
# Library: sentencex 1.0.32
#
# Guess, written before the run: a numbered step that holds several sentences is split into them, as the same
#   words in prose are.
#
# Seen: it depends on the neighbours. Two or more list lines in a row are recognised as a list and each stays
#   whole, whatever its length; a single list line is split, and its '1.' becomes a sentence of its own. A table
#   is one sentence, whatever its number of rows.
#
# Why it matters: a compressor or retriever with sentences as units keeps or drops a long step, or a whole table,
#   in one piece, and adding a second step to a manual changes the units of the first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check sentencex==1.0.32
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

from sentencex import segment

print("sentencex", version("sentencex"))
STEP = "Open the valve. Wait ten seconds. Close it again."
TABLE = "| item | price |\n|---|---|\n" + "".join(f"| item {n} | {n}.50 |\n" for n in range(40))
TEXTS = {
    "prose": STEP,
    "two lines of prose": f"{STEP}\n{STEP}",
    "one step": f"1. {STEP}",
    "two steps": f"1. {STEP}\n2. {STEP}",
    "two bullets": f"- {STEP}\n- {STEP}",
    "table of 40 rows": TABLE,
}
counts = {}
for name, text in TEXTS.items():
    sentences = [sentence for sentence in segment("en", text) if sentence.strip()]
    counts[name] = len(sentences)
    print(f"{name}: {len(sentences)} sentence(s)")
assert list(counts.values()) == [3, 6, 4, 2, 2, 1]
PY
"$work/venv/bin/python" -I "$work/check.py"
