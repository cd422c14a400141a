#!/usr/bin/env bash
# Library: pydantic-core 2.50.5, langchain-core 1.8.3 (parse_partial_json), jiter 0.19.0
#
# Guess, written before the run: parsers of incomplete JSON hold a number at the end back until it is complete, as
#   they do with strings and literals.
#
# Seen: all return the cut number: of a price of 1999 they give 19 once those two digits have arrived.
#   pydantic-core (allow_partial=True) and jiter hold back a cut string; a cut literal is held back by all.
#
# Why it matters: streamed tool calls and structured answers show, and may act on, a number that is ten times too
#   small, with the right type for the schema. Only the end of the stream proves a number.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check pydantic-core==2.50.5 langchain-core==1.8.3 jiter==0.19.0
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

import jiter
import pydantic_core
from langchain_core.utils.json import parse_partial_json

print(*(f"{name} {version(name)}" for name in ("pydantic-core", "langchain-core", "jiter")))
PARSERS = {
    "pydantic-core": lambda text: pydantic_core.from_json(text, allow_partial=True),
    "jiter": lambda text: jiter.from_json(text.encode(), partial_mode=True),
    "langchain-core": parse_partial_json,
}
seen = {}
for text in ('{"price": 19', '{"name": "An', '{"ok": tr'):
    seen[text] = [parse(text) for parse in PARSERS.values()]
    print(text, dict(zip(PARSERS, seen[text])))
assert seen['{"price": 19'] == [{"price": 19}] * 3
assert seen['{"name": "An'] == [{}, {}, {"name": "An"}]
assert seen['{"ok": tr'] == [{}] * 3
PY
"$work/venv/bin/python" -I "$work/check.py"
