#!/usr/bin/env bash
# Library: tokenizers 0.23.3, decoders.ByteFallback
#
# Guess, written before the run: one byte token that is not valid UTF-8 becomes one U+FFFD, and the characters
#   before and after it stay.
#
# Seen: the whole run of neighbouring byte tokens becomes U+FFFD, one for each byte: two good characters of two
#   bytes each on both sides of one bad byte give nine of them and no letter.
#
# Why it matters: a model writes rare scripts in byte tokens. One bad token, or a cut in the middle of a
#   character, erases the whole word or sentence in the decoded text, and a streaming decoder that waits for the
#   last U+FFFD to go sees the text before it change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check tokenizers==0.23.3
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

from tokenizers import Tokenizer, decoders, models

print("tokenizers", version("tokenizers"))
vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"<unk>": 256, "a": 257, "b": 258}
tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
good = list("\u00e9\u00e9".encode())
texts = {
    "good": tokenizer.decode([257, *good, *good, 258]),
    "one bad byte between": tokenizer.decode([257, *good, 0xFF, *good, 258]),
    "cut at the end": tokenizer.decode([257, *good, good[0]]),
}
for name, text in texts.items():
    print(f"{name}: {ascii(text)}")
assert texts["good"] == "a" + "\u00e9" * 4 + "b"
assert texts["one bad byte between"] == "a" + "\ufffd" * 9 + "b"
assert texts["cut at the end"] == "a" + "\ufffd" * 5
PY
"$work/venv/bin/python" -I "$work/check.py"
