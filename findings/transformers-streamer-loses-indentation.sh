#!/usr/bin/env bash
# Library: transformers 5.23.0, TextStreamer; tokenizers 0.23.3 with a Metaspace decoder
#
# Guess, written before the run: the texts of a TextStreamer, joined, equal what decode gives for the same tokens.
#
# Seen: at each line break the streamer forgets the tokens before it and decodes the next ones as the start of a
#   text, where a Metaspace (sentencepiece) decoder drops leading spaces. A line indented by a token of four
#   spaces comes without any.
#
# Why it matters: streamed code of Llama 2, Mistral and Gemma style tokenizers has wrong indentation, while the
#   same answer through generate and decode is right.
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

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TextStreamer

print("transformers", transformers.__version__)
SPACE = "\u2581"
words = ["<unk>", f"{SPACE}if", f"{SPACE}x", ":", "\n", SPACE * 4, SPACE * 5, "return", f"{SPACE}1"]
vocabulary = {word: number for number, word in enumerate(words)}
inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.Metaspace()
inner.decoder = decoders.Metaspace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


class Collect(TextStreamer):
    def on_finalized_text(self, text, stream_end=False):
        parts.append(text)


parts = []
tokens = [vocabulary[word] for word in (f"{SPACE}if", f"{SPACE}x", ":", "\n", SPACE * 4, "return", f"{SPACE}1")]
streamer = Collect(tokenizer)
for token in tokens:
    streamer.put(torch.tensor([token]))
streamer.end()
print("decode:  ", repr(tokenizer.decode(tokens)))
print("streamed:", repr("".join(parts)))
assert tokenizer.decode(tokens) == "if x:\n    return 1"
assert "".join(parts).rstrip("\n") == "if x:\nreturn 1"
PY
"$work/venv/bin/python" -I "$work/check.py"
