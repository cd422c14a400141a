#!/usr/bin/env bash
# Library: markdownify 1.2.3, html2text 2025.4.15
#
# Guess, written before the run: a pipe inside a table cell is escaped, and a line break inside a cell does not
#   end the Markdown row.
#
# Seen: neither library escapes the pipe, so the row has one cell more than its header; html2text also ends the
#   row at a <br>. trafilatura 2.3.1 escapes the pipe and turns the break into a space.
#
# Why it matters: type tables of APIs (int | None) are the usual victims: values move one column to the right, and
#   a model or a chunker that keeps header and row together reads the wrong column.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check markdownify==1.2.3 html2text==2025.4.15 trafilatura==2.3.1 lxml_html_clean==0.4.6
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

import html2text
import trafilatura
from markdownify import markdownify

print(*(f"{name} {version(name)}" for name in ("markdownify", "html2text", "trafilatura")))
TABLE = (
    "<table><tr><th>name</th><th>type</th><th>note</th></tr>"
    "<tr><td>limit</td><td>int | None</td><td>first<br>second</td></tr></table>"
)
TEXT = "<p>The call takes one argument, which is described in the table below, and gives back a list of all the rows.</p>"
outputs = {
    "markdownify": markdownify(TABLE),
    "html2text": html2text.html2text(TABLE),
    "trafilatura": trafilatura.extract(f"<html><body><article>{TEXT}{TABLE}{TEXT}</article></body></html>"),
}
for name, text in outputs.items():
    print(f"--- {name}\n{text.strip()}")
assert "int | None" in outputs["markdownify"] and "int | None" in outputs["html2text"]
assert "first  \nsecond" in outputs["html2text"] and "first second" in outputs["markdownify"]
assert "int \\| None | first second" in outputs["trafilatura"]
PY
"$work/venv/bin/python" -I "$work/check.py"
