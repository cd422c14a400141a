#!/usr/bin/env bash
# Library: pdfplumber 0.11.10
#
# Guess, written before the run: text as TeX sets it, with gaps instead of space characters, gives the same words
#   in pypdf, pypdfium2, pdfminer.six and pdfplumber.
#
# Seen: pdfplumber joins words: its tolerance is 3 points whatever the size of the font, and at 10 points a gap
#   between words is often less. 'Please see https for We' becomes 'Pleasesee httpsforWe'; the other three keep
#   the words. x_tolerance_ratio=0.15 mends it.
#
# Why it matters: scientific papers lose word borders, so keyword search, token counts and sentence units are
#   wrong, most of all in small print such as footnotes and tables.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check pypdfium2==5.15.2 pypdf==7.1.1 pdfplumber==0.11.10 pdfminer.six==20260107
cat > "$work/check.py" <<'PY'
import io
from importlib.metadata import version

import pdfplumber
import pypdf
import pypdfium2
from pdfminer.high_level import extract_text


def pdf(content):
    """One page in Helvetica with the given content stream."""
    stream = content.encode("latin-1")
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 400 300]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF"
    return out + end % (size, table, size, len(out))


print(*(f"{name} {version(name)}" for name in ("pdfplumber", "pypdfium2", "pypdf", "pdfminer.six")))
page = pdf("BT /F 10 Tf 50 250 Td [(Please)-250(see)-333(https)-280(for)-250(W)80(e)] TJ ET")
with pdfplumber.open(io.BytesIO(page)) as opened:
    plumber = opened.pages[0].extract_text()
    relative = opened.pages[0].extract_text(x_tolerance_ratio=0.15)
others = [
    pypdfium2.PdfDocument(page)[0].get_textpage().get_text_range(),
    pypdf.PdfReader(io.BytesIO(page)).pages[0].extract_text(),
    extract_text(io.BytesIO(page)).strip(),
]
print("pdfplumber                       ", repr(plumber))
print("pdfplumber, x_tolerance_ratio .15", repr(relative))
print("pypdfium2, pypdf, pdfminer       ", others)
assert others == ["Please see https for We"] * 3 and relative == others[0]
assert plumber == "Pleasesee httpsforWe"
PY
"$work/venv/bin/python" -I "$work/check.py"
