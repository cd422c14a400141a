#!/usr/bin/env bash
# Library: pdfminer.six 20260107
#
# Guess, written before the run: with a narrow gutter, two columns come one after the other, or line by line: one
#   way for the whole page.
#
# Seen: both on one page: a full line whose gap to the next column is less than two characters is joined with the
#   neighbour's line, while the short lines below it stay in their columns. The first sentence is made of both
#   columns and the rest of each column follows.
#
# Why it matters: the joined line is a sentence that nobody wrote, and both columns lose their first line. An
#   answer taken from it can cite a rule that does not exist.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check pdfminer.six==20260107
cat > "$work/check.py" <<'PY'
import io
from importlib.metadata import version

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


print("pdfminer.six", version("pdfminer.six"))
LEFT = ["The museum opens at nine", "and closes at five in", "winter, at six in May"]
RIGHT = ["Dogs are not allowed but", "guide dogs may come in at", "any time of the day here"]
WIDTH = 121.17  # of the first left line at 10 points
draw = lambda x, y, text: f"BT /F 10 Tf 1 0 0 1 {x} {y} Tm ({text}) Tj ET\n"
content = "".join(
    draw(50, 250 - 12 * n, LEFT[n]) + draw(50 + WIDTH + 9, 250 - 12 * n, RIGHT[n]) for n in range(3)
)
lines = [line for line in extract_text(io.BytesIO(pdf(content))).splitlines() if line.strip("\x0c ")]
print("\n".join(lines))
assert lines == [f"{LEFT[0]} {RIGHT[0]}", *LEFT[1:], *RIGHT[1:]]
PY
"$work/venv/bin/python" -I "$work/check.py"
