#!/usr/bin/env bash
# Library: kvpress 0.5.5, KeyRerotationPress with model.generate of transformers 5.2.0
#
# Guess, written before the run: after the press has moved the kept keys to the positions 0 to k - 1, the first
#   new token has the position k.
#
# Seen: the keys are moved, and new tokens go on at the length of the full prompt: 200, 201, ... where the kept
#   keys end at 99. A gap of 100 positions lies between the last key and the first query.
#
# Why it matters: the press exists to close such gaps, as streaming attention wants it. Used with generate, it
#   only shifts them to the end of the prompt, where the nearest kept key is far away.
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

from kvpress import KeyRerotationPress, KnormPress
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import rotate_half

print(*(f"{name} {version(name)}" for name in ("kvpress", "transformers", "torch")))
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=99, hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4
)
model = LlamaForCausalLM(config).eval()
model.generation_config.update(pad_token_id=0, eos_token_id=None)
prompt = torch.randint(3, 99, (1, 200))


def first_layer_keys(press):
    cache = DynamicCache()
    with torch.no_grad(), press(model):
        model(prompt, past_key_values=cache)
    return cache.layers[0].keys[0]


positions = []


def note(module, args, kwargs):
    positions.append(kwargs["position_ids"][0, [0, -1]].tolist())


hook = model.model.rotary_emb.register_forward_pre_hook(note, with_kwargs=True)
with KeyRerotationPress(KnormPress(0.5))(model):
    model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False)
hook.remove()
print("positions of the forward passes:", positions)

# The same keys without their rotation, to see at which positions the press left them.
with torch.no_grad():
    layer = model.model.layers[0]
    hidden = layer.input_layernorm(model.model.embed_tokens(prompt))
    plain = layer.self_attn.k_proj(hidden).view(200, 4, 8).transpose(0, 1)
    norms = plain.norm(dim=-1)
    chosen = norms[0].topk(100, largest=False).indices.sort().values
    cos, sin = model.model.rotary_emb(plain[None], torch.arange(100)[None])
    moved = plain[0, chosen] * cos[0] + rotate_half(plain[0, chosen]) * sin[0]
left = first_layer_keys(KeyRerotationPress(KnormPress(0.5)))[0]
print("kept keys lie at the positions 0 to 99:", bool(torch.allclose(left, moved, atol=1e-4)))
assert torch.allclose(left, moved, atol=1e-4)
assert positions == [[0, 199], [200, 200], [201, 201], [202, 202]]
PY
"$work/venv/bin/python" -I "$work/check.py"
