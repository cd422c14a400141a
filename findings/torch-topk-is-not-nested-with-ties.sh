#!/usr/bin/env bash
# Library: torch 2.13.0, torch.topk on the CPU
#
# Guess, written before the run: the k best entries are among the k + 1 best, with ties as well.
#
# Seen: with ties there is one step where they are not: torch changes its method at k * 64 > n, and the new method
#   takes other members of a plateau. In 256 max-pooled scores, top 5 lacks four of the top 4.
#
# Why it matters: KV pruning and prompt compression pool scores and take the top k. A slightly larger budget then
#   loses tokens that the smaller one kept. A stable descending sort, cut at k, is nested.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import torch

print("torch", torch.__version__)
torch.manual_seed(0)
raw = torch.rand(256)
scores = torch.nn.functional.max_pool1d(raw[None, None], 13, stride=1, padding=6)[0, 0]


def steps_that_lose(select):
    return [k for k in range(1, len(scores)) if not set(select(k)) <= set(select(k + 1))]


by_topk = steps_that_lose(lambda k: scores.topk(k).indices.tolist())
by_sort = steps_that_lose(lambda k: scores.argsort(descending=True, stable=True)[:k].tolist())
without_ties = [k for k in range(1, 256) if not set(raw.topk(k).indices.tolist()) <= set(raw.topk(k + 1).indices.tolist())]
worst = max(len(set(scores.topk(k).indices.tolist()) - set(scores.topk(k + 1).indices.tolist())) for k in by_topk)
print(f"topk loses entries at the steps from k = {by_topk}, at most {worst} at once; a stable sort at {by_sort}")
assert by_topk == [256 // 64] and worst == 4 and not by_sort and not without_ties
PY
"$work/venv/bin/python" -I "$work/check.py"
