#!/usr/bin/env bash
# Library: transformers 5.23.0, a decoder called with position_ids
#
# Guess, written before the run: positions with a gap only move the rotary angles; each token still sees all
#   tokens before it, with or without an attention mask or a cache.
#
# Seen: without a mask and with use_cache=False, each gap counts as the border of a packed sequence, and tokens
#   behind it do not see what stands before it. An all-ones mask, or a cache, or both, gives the other result.
#   sdpa and eager alike.
#
# Why it matters: pruned prompts keep their original positions and so have gaps. A scoring pass without a cache,
#   which saves memory, then judges an answer without its context, and raises nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import logging
import os
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
import torch
import transformers

from transformers import LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)
model = LlamaForCausalLM(config).eval()
tokens = torch.arange(5, 25)[None]
changed = tokens.clone()
changed[0, 3] = 60
positions = torch.cat([torch.arange(10), torch.arange(30, 40)])[None]
effects = {}
for mask in (None, torch.ones_like(tokens)):
    for cache in (False, True):
        with torch.no_grad():
            first, second = (
                model(ids, position_ids=positions, attention_mask=mask, use_cache=cache).logits[0, -1]
                for ids in (tokens, changed)
            )
        name = f"{'no mask' if mask is None else 'all-ones mask'}, use_cache={cache}"
        effects[name] = float((first - second).abs().max())
        print(f"{name}: a token before the gap changes the last logits by {effects[name]:.6f}")
assert effects.pop("no mask, use_cache=False") == 0
assert all(effect > 1e-4 for effect in effects.values())
PY
"$work/venv/bin/python" -I "$work/check.py"
