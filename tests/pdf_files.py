"""PDF files as TeX writes them: words are separated by movements of the pen, and there are no spaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHAR_WIDTH = 0.5  # of the font size, for each character
SPACE = 0.35


@dataclass(frozen=True)
class Text:
    """A line of text at a place of a page. A "|" between words is a wide gap; a final "~" is a hyphen at a line end."""

    text: str
    x: float = 72.0
    y: float = 700.0
    size: float = 10.0
    font: str = "F1"

    @property
    def operators(self) -> bytes:
        pieces = []
        for i, word in enumerate(self.text.replace("~", "-").split(" ")):
            gap = 3.0 if word == "|" else SPACE
            if i:
                pieces.append(f"{-1000 * gap:g}")
            if word != "|":
                half = len(word) // 2  # TeX kerns inside of words as well
                escaped = [
                    part.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
                    for part in (word[:half], word[half:])
                ]
                pieces.append(f"({escaped[0]}) 12 ({escaped[1]})")
        return f"BT /{self.font} {self.size:g} Tf {self.x:g} {self.y:g} Td [{' '.join(pieces)}] TJ ET\n".encode(
            "cp1252"
        )


def paragraph(
    lines: Sequence[str], top: float, *, x: float = 72.0, indent: float = 0.0, size: float = 10.0
) -> list[Text]:
    """Lines below each other, the first one indented."""
    return [Text(line, x + (indent if i == 0 else 0.0), top - 1.2 * size * i, size) for i, line in enumerate(lines)]


def pdf(*pages: Sequence[Text], title: str | None = None, extra: bytes = b"") -> bytes:
    """A PDF of pages; F1 is Helvetica with equal widths, F2 bold, F3 monospaced."""
    widths = b" ".join([b"%d" % (1000 * CHAR_WIDTH)] * 224)
    fonts = [
        b"<< /Type /Font /Subtype /Type1 /BaseFont /%s /FirstChar 32 /LastChar 255 /Encoding /WinAnsiEncoding "
        b"/Widths [%s] >>" % (name, widths)
        for name in (b"Helvetica", b"Helvetica-Bold", b"Courier")
    ]
    first = 3 + len(fonts)
    kids = b" ".join(b"%d 0 R" % (first + 2 * i) for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        *fonts,
    ]
    for i, page in enumerate(pages):
        stream = b"".join(text.operators for text in page) + extra
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources "
            b"<< /Font << /F1 3 0 R /F2 4 0 R /F3 5 0 R >> >> /Contents %d 0 R >>" % (first + 2 * i + 1),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        ]
    information = b""
    if title is not None:
        objects.append(b"<< /Title (%s) >>" % title.encode("latin-1"))
        information = b"/Info %d 0 R " % len(objects)
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    xref = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d %s/Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, information, xref)
    return bytes(out)
