#!/usr/bin/env bash
# Library: transformers 5.23.0, generate()
#
# Guess, written before the run: an option given as None leaves the value of the model's generation_config, as a
#   keyword and within a GenerationConfig alike.
#
# Seen: as a keyword, None overrides: repetition_penalty=None switches the model's penalty off. Within a passed
#   GenerationConfig, None is filled from the model: the same None keeps the penalty.
#
# Why it matters: servers build a GenerationConfig from requests with null fields and get the checkpoint's
#   sampling settings back; wrappers that pass None on as a keyword lose them. The same request gives different
#   answers.
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

from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=0,
)  # fmt: skip
model = LlamaForCausalLM(config).eval()
prompt = torch.arange(5, 25)[None]
model.generation_config.update(repetition_penalty=5.0, max_new_tokens=12, do_sample=False)


def answer(**options):
    return model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0, 20:].tolist()


seen = {
    "model's own penalty of 5": answer(),
    "penalty 1": answer(repetition_penalty=1.0),
    "keyword None": answer(repetition_penalty=None),
    "None in a GenerationConfig": answer(generation_config=GenerationConfig(repetition_penalty=None, max_new_tokens=12)),
}
for name, tokens in seen.items():
    print(f"{name}: {tokens}")
own, off, keyword, within = seen.values()
assert own != off and keyword == off and within == own
PY
"$work/venv/bin/python" -I "$work/check.py"
