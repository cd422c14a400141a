#!/usr/bin/env bash
# Library: python-docx 1.2.0
#
# Guess, written before the run: paragraph.text has the text that Word shows, with tracked insertions and filled
#   form fields; row.cells has a merged cell once.
#
# Seen: inserted text (w:ins) and content controls (w:sdt) are missing, so 'The fee is 12 euros' becomes 'The fee
#   is euros' and a form loses its values; a merged cell is given once per column or row that it covers. mammoth
#   gives each text once.
#
# Why it matters: contracts under revision and filled forms lose the very figures that questions ask for, with no
#   sign of it, and merged headers are counted several times.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check python-docx==1.2.0 mammoth==1.13.0
cat > "$work/check.py" <<'PY'
import io
import zipfile
from importlib.metadata import version

import docx as reader
import mammoth


NAMES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" '
    'xmlns:v="urn:schemas-microsoft-com:vml"'
)
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
MAIN = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"


def docx(body):
    """The bytes of a Word document with this body."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{PACKAGE}/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{MAIN}"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{PACKAGE}/relationships">'
            f'<Relationship Id="r1" Type="{OFFICE}" Target="word/document.xml"/></Relationships>',
        )
        archive.writestr("word/_rels/document.xml.rels", f'<Relationships xmlns="{PACKAGE}/relationships"/>')
        archive.writestr("word/document.xml", f"<w:document {NAMES}><w:body>{body}<w:sectPr/></w:body></w:document>")
    return out.getvalue()


def run(text):
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(inner):
    return f"<w:p>{inner}</w:p>"


print("python-docx", version("python-docx"), "mammoth", version("mammoth"))
inserted = paragraph(run("The fee is ") + f'<w:ins w:id="1" w:author="a">{run("12")}</w:ins>' + run(" euros"))
field = paragraph(run("Name: ") + f"<w:sdt><w:sdtContent>{run('Odalys Fenn')}</w:sdtContent></w:sdt>" + run("."))
cell = lambda text, extra="": f"<w:tc><w:tcPr>{extra}</w:tcPr>{paragraph(run(text))}</w:tc>"
wide = cell("Prices", "<w:gridSpan w:val='2'/>")
rows = f"<w:tr>{wide}</w:tr><w:tr>{cell('adult')}{cell('12')}</w:tr>"
table = f"<w:tbl><w:tblPr/><w:tblGrid><w:gridCol/><w:gridCol/></w:tblGrid>{rows}</w:tbl>"
data = docx(inserted + field + table)
document = reader.Document(io.BytesIO(data))
texts = [each.text for each in document.paragraphs]
cells = [[each.text for each in row.cells] for row in document.tables[0].rows]
raw = mammoth.extract_raw_text(io.BytesIO(data)).value
print("python-docx", texts, cells)
print("mammoth    ", repr(raw))
assert texts == ["The fee is  euros", "Name: ."] and cells == [["Prices", "Prices"], ["adult", "12"]]
assert "The fee is 12 euros" in raw and "Odalys Fenn" in raw and raw.count("Prices") == 1
PY
"$work/venv/bin/python" -I "$work/check.py"
