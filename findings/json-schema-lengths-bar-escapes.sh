#!/usr/bin/env bash
# Library: llguidance 1.9.1, xgrammar 0.2.8, outlines-core 0.2.14 (jsonschema 4.26.0 as the judge)
#
# Guess, written before the run: a bound on a string's length counts characters of the value, so the escape \n
#   counts as one, in all three engines.
#
# Seen: in xgrammar a string with minLength or maxLength can hold no escape at all: no line break and no quotation
#   mark, whatever the bound. Without a bound it can. llguidance and outlines-core count such an escape as one
#   character (and never allow the form \u0041).
#
# Why it matters: minLength 1, the usual way to ask for a text that is not empty, keeps a model from writing
#   quotations, lists and code into that field, and nothing reports it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check llguidance==1.9.1 xgrammar==0.2.8 outlines-core==0.2.14 jsonschema==4.26.0 torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import json
import logging
import os
import re
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
import jsonschema
import xgrammar
from llguidance import LLMatcher, LLTokenizer
from outlines_core.json_schema import build_regex_from_schema

BYTES = [bytes([byte]) for byte in range(256)] + [b"</s>"]
INFO = xgrammar.TokenizerInfo(BYTES, vocab_type=xgrammar.VocabType.RAW, vocab_size=257, stop_token_ids=[256])
COMPILER = xgrammar.GrammarCompiler(INFO)
TOKENIZER = LLTokenizer("byte")


def llguidance(schema, text):
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_json_schema(json.dumps(schema)), log_level=0)
    return all(matcher.consume_token(byte) for byte in text.encode()) and matcher.is_accepting()


def by_xgrammar(schema, text):
    matcher = xgrammar.GrammarMatcher(COMPILER.compile_json_schema(json.dumps(schema)))
    return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(256)


def outlines(schema, text):
    return re.fullmatch(build_regex_from_schema(json.dumps(schema)), text) is not None


def verdicts(schema, text):
    """Whether the text is valid by jsonschema, and accepted by llguidance, xgrammar and outlines-core."""
    valid = jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
    got = (valid, llguidance(schema, text), by_xgrammar(schema, text), outlines(schema, text))
    print(f"{json.dumps(schema)[:80]:80} {text:20} valid, llguidance, xgrammar, outlines-core: {got}")
    return got


print(*(f"{name} {version(name)}" for name in ("llguidance", "xgrammar", "outlines-core", "jsonschema")))

BREAK, QUOTE, LETTER = '"a\\nb"', '"a\\"b"', '"\\u0041"'
free, least, most = {"type": "string"}, {"type": "string", "minLength": 1}, {"type": "string", "maxLength": 100}
for text in (BREAK, QUOTE):
    assert verdicts(free, text) == (True, True, True, True)
    assert verdicts(least, text) == verdicts(most, text) == (True, True, False, True)
assert verdicts(free, LETTER)[2] and not any(verdicts(least, LETTER)[1:])
PY
"$work/venv/bin/python" -I "$work/check.py"
