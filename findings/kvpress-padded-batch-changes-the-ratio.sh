#!/usr/bin/env bash
# Library: kvpress 0.5.5, transformers 5.2.0
#
# Guess, written before the run: in a left-padded batch, padding is not counted among a row's pairs: at
#   compression_ratio=0.5 a row keeps half of its own tokens, and none of the padding.
#
# Seen: the ratio counts the padded length, and padding competes for the places. A row of 200 tokens and as much
#   padding keeps 200 pairs, so nearly nothing is pruned; some of these are padding, which pushes real tokens out.
#
# Why it matters: the quality and the memory of a request depend on the lengths of its neighbours in the batch.
#   Figures from batches of mixed lengths do not describe the stated ratio.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check kvpress==0.5.5 torch==2.13.0 transformers==5.2.0 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import logging
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
import torch

from kvpress import KnormPress, SnapKVPress
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

print(*(f"{name} {version(name)}" for name in ("kvpress", "transformers", "torch")))
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=99, hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4
)
model = LlamaForCausalLM(config).eval()
model.generation_config.update(pad_token_id=0, eos_token_id=None)
prompt = torch.randint(3, 99, (1, 200))

PAD = 200
tokens = torch.cat([torch.zeros(1, PAD, dtype=torch.long), prompt], 1)
mask = torch.cat([torch.zeros(1, PAD, dtype=torch.long), torch.ones(1, 200, dtype=torch.long)], 1)
inputs = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def keys(press, ids, **options):
    cache = DynamicCache()
    with torch.no_grad():
        if press is None:
            model(ids, past_key_values=cache, **options)
        else:
            with press(model):
                model(ids, past_key_values=cache, **options)
    return cache.layers[0].keys[0, 0]


dense = keys(None, tokens, **inputs)
for press in (KnormPress(0.5), SnapKVPress(0.5, window_size=16)):
    alone = len(keys(press, prompt))
    kept = keys(press, tokens, **inputs)
    origin = torch.cdist(kept, dense).argmin(1)
    padding = int((origin < PAD).sum())
    print(f"{type(press).__name__}: alone {alone} pairs of 200, padded {len(kept)}, of them {padding} of padding")
    assert alone == 100 and len(kept) == 200 and padding > 0
PY
"$work/venv/bin/python" -I "$work/check.py"
