#!/usr/bin/env bash
# Library: pypdfium2 5.15.2
#
# Guess, written before the run: a hyphen at the end of a line comes as '-' and a line break; a search for the
#   hyphenated word as printed finds it.
#
# Seen: get_text_range gives U+FFFE, get_text_bounded gives U+0002, and neither gives a line break: hyphen and
#   break are one character. A search for the word finds it neither with nor without the hyphen. pypdf and
#   pdfminer.six give '-' and a line break.
#
# Why it matters: words of justified PDFs do not match queries or indexes until that character is removed, and
#   readers that look for '-\n' to join words never find it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check pypdfium2==5.15.2 pypdf==7.1.1 pdfminer.six==20260107
cat > "$work/check.py" <<'PY'
import io
from importlib.metadata import version

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


print(*(f"{name} {version(name)}" for name in ("pypdfium2", "pypdf", "pdfminer.six")))
page = pdf("BT /F 10 Tf 50 250 Td (the quick exam-) Tj 0 -12 Td (ple of a line) Tj ET")
text = pypdfium2.PdfDocument(page)[0].get_textpage()
print("get_text_range  ", ascii(text.get_text_range()))
print("get_text_bounded", ascii(text.get_text_bounded()))
found = {word: text.search(word).get_next() for word in ("example", "exam-ple", "line")}
print("search", found)
other = [pypdf.PdfReader(io.BytesIO(page)).pages[0].extract_text(), extract_text(io.BytesIO(page)).strip()]
print("pypdf, pdfminer ", ascii(other))
assert text.get_text_range() == "the quick exam\ufffeple of a line"
assert text.get_text_bounded() == "the quick exam\x02ple of a line"
assert found["example"] is None and found["exam-ple"] is None and found["line"] is not None
assert other == ["the quick exam-\nple of a line"] * 2
PY
"$work/venv/bin/python" -I "$work/check.py"
