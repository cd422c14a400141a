#!/usr/bin/env bash
# Library: llguidance 1.9.1, xgrammar 0.2.8, outlines-core 0.2.14 (jsonschema 4.26.0 as the judge)
#
# Guess, written before the run: allOf merges its parts, and a name in 'required' must appear even if 'properties'
#   does not list it, in all three engines.
#
# Seen: llguidance does both. xgrammar drops allOf and accepts any JSON, and drops the unlisted name so that it
#   cannot even be written; outlines-core refuses every object with both parts and drops the name as well. With
#   patternProperties xgrammar allows the empty object alone, although it names no such limit.
#
# Why it matters: generated schemas (pydantic unions, OpenAPI) use allOf and partial properties. The output then
#   fails the validation that the constraint was to guarantee.
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

part = lambda name: {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}
both = {"allOf": [part("a"), part("b")]}
assert verdicts(both, '{"a":1,"b":2}') == (True, True, True, False)
assert verdicts(both, "5") == (False, False, True, False)
unlisted = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a", "b"]}
assert verdicts(unlisted, '{"a":1,"b":2}') == (True, True, False, False)
assert verdicts(unlisted, '{"a":1}') == (False, False, True, True)
named = {"type": "object", "patternProperties": {"^x": {"type": "integer"}}}
assert verdicts(named, "{}")[1:3] == (True, True) and verdicts(named, '{"x1":1}')[1:3] == (True, False)
PY
"$work/venv/bin/python" -I "$work/check.py"
