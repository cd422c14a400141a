#!/usr/bin/env bash
# Library: docx2txt 0.9, mammoth 1.13.0
#
# Guess, written before the run: the text of a text box, which Word stores with a fallback for old readers, comes
#   once.
#
# Seen: docx2txt gives it twice, from the new and from the old form, both within the paragraph that anchors the
#   box and without a space before the words that follow. mammoth gives it once, after the paragraph.
#
# Why it matters: repeated passages take part of a context's budget, count double in BM25, and make the repeated
#   text look more important to a scorer that counts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check docx2txt==0.9 mammoth==1.13.0
cat > "$work/check.py" <<'PY'
import io
import zipfile
from importlib.metadata import version

import docx2txt
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


print("docx2txt", version("docx2txt"), "mammoth", version("mammoth"))
content = f"<w:txbxContent>{paragraph(run('Closed on Mondays'))}</w:txbxContent>"
box = (
    '<w:r><mc:AlternateContent><mc:Choice Requires="wps"><w:drawing>'
    f"<wps:txbx>{content}</wps:txbx></w:drawing></mc:Choice>"
    f"<mc:Fallback><w:pict><v:shape><v:textbox>{content}</v:textbox></v:shape></w:pict></mc:Fallback>"
    "</mc:AlternateContent></w:r>"
)
data = docx(paragraph(run("Open daily.") + box + run("Ring the bell.")))
plain = docx2txt.process(io.BytesIO(data))
raw = mammoth.extract_raw_text(io.BytesIO(data)).value
print("docx2txt", repr(plain))
print("mammoth ", repr(raw))
assert plain.count("Closed on Mondays") == 2 and raw.count("Closed on Mondays") == 1
PY
"$work/venv/bin/python" -I "$work/check.py"
