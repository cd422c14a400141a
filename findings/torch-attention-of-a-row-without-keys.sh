#!/usr/bin/env bash
# Library: torch 2.13.0, scaled_dot_product_attention on the CPU
#
# Guess, written before the run: a query whose mask allows no key gives NaN, with a boolean mask as with a float
#   mask.
#
# Seen: a boolean mask of False and a float mask of -inf give zeros; a float mask of the type's lowest number,
#   which transformers models use, gives the mean of all values, the forbidden ones included.
#
# Why it matters: padding rows and fully pruned heads are such rows. A NaN check does not find them, and two masks
#   that mean the same give different hidden states.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import torch
from torch.nn.functional import scaled_dot_product_attention as attend

print("torch", torch.__version__)
torch.manual_seed(0)
query, key, value = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 3, 8), torch.randn(1, 1, 3, 8)
masks = {
    "False": torch.zeros(1, 3, dtype=torch.bool),
    "-inf": torch.full((1, 3), -torch.inf),
    "finfo.min": torch.full((1, 3), torch.finfo(torch.float32).min),
}
out = {name: attend(query, key, value, attn_mask=mask)[0, 0, 0] for name, mask in masks.items()}
mean = value.mean(2)[0, 0]
for name, row in out.items():
    kind = "zeros" if not row.any() else "mean of all values" if torch.allclose(row, mean, atol=1e-6) else "something else"
    print(f"{name}: {kind}")
assert not out["False"].any() and not out["-inf"].any()
assert torch.allclose(out["finfo.min"], mean, atol=1e-6)
PY
"$work/venv/bin/python" -I "$work/check.py"
