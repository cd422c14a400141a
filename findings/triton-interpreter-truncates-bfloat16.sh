#!/usr/bin/env bash
# Library: triton 3.9.0, TRITON_INTERPRET=1, torch 2.13.0
#
# Guess, written before the run: a float32 that a kernel casts to bfloat16 is rounded to the nearest value, as
#   torch and a compiled kernel do.
#
# Seen: the interpreter cuts the low bits off: 1.0061 becomes 1.0, torch gives 1.0078. The mean error is a bias
#   towards zero, not noise. Integer // and % follow C, as compiled code does.
#
# Why it matters: kernels in bfloat16 that are tested on the interpreter against torch miss by one unit in the
#   last place, always towards zero; sums over many keys drift. Loosening the tolerance hides real faults; casting
#   outside of the kernel does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 triton==3.9.0 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import os

os.environ["TRITON_INTERPRET"] = "1"
import torch
import triton
import triton.language as tl

print("triton", triton.__version__, "torch", torch.__version__)


@triton.jit
def cast(source, target):
    at = tl.arange(0, 1024)
    tl.store(target + at, tl.load(source + at).to(tl.bfloat16))


torch.manual_seed(0)
values = torch.rand(1024) + 1
values[0] = 1.005859375 + 2**-12
out = torch.zeros(1024, dtype=torch.bfloat16)
cast[(1,)](values, out)
rounded = values.to(torch.bfloat16)
cut = (values.view(torch.int32) & -65536).view(torch.float32)
print("first value", float(values[0]), "interpreter", float(out[0]), "torch", float(rounded[0]))
print("mean error: interpreter", float((out.float() - values).mean()), "torch", float((rounded.float() - values).mean()))
print("equal to torch:", int((out == rounded).sum()), "of 1024; equal to the cut bits:", int((out.float() == cut).sum()))
assert torch.equal(out.float(), cut) and 300 < int((out != rounded).sum()) < 700
PY
"$work/venv/bin/python" -I "$work/check.py"
