"""Files become documents, or a clear error says why not."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from spec_rag.errors import ConfigError, UnreadableFileError
from spec_rag.loaders.reading import read_bytes, read_file, read_files
from spec_rag.loaders.source import ReadLimits

pypdf = pytest.importorskip("pypdf")
pytest.importorskip("lxml")


def pdf_bytes(*pages: str) -> bytes:
    """A hand-made PDF with one line of text per page."""
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    kids = b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        font,
    ]
    for i, text in enumerate(pages):
        stream = b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % text.encode("latin-1")
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            b"/Contents %d 0 R >>" % (5 + 2 * i)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    out = io.BytesIO(b"")
    out.write(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    xref = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % offset for offset in offsets))
    out.write(b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, xref))
    return out.getvalue()


def written(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_text_is_exactly_what_open_gives(tmp_path: Path) -> None:
    path = written(tmp_path, "notes.txt", "One.\r\n\r\n  Zwei ä.\r\n")
    document = read_file(path)
    assert document.text == path.read_text(encoding="utf-8") == "One.\n\n  Zwei ä.\n"
    assert (document.title, document.metadata) == ("notes", {"source": str(path)})


@pytest.mark.parametrize(("name", "title"), [("Makefile", "Makefile"), ("a.unknown", "a"), (".profile", ".profile")])
def test_a_file_of_an_unknown_kind_is_read_if_it_is_text(tmp_path: Path, name: str, title: str) -> None:
    document = read_file(written(tmp_path, name, "all: käse\n\ttouch \x1b[0m\n"))
    assert (document.text, document.title) == ("all: käse\n\ttouch \x1b[0m\n", title)


def test_markdown_takes_its_first_heading_as_title(tmp_path: Path) -> None:
    assert read_file(written(tmp_path, "a.md", "intro\n\n## Power & Light ##\n\n# Later")).title == "Power & Light"
    assert read_file(written(tmp_path, "b.md", "no heading, only #hashtag")).title == "b"


def test_html_gives_what_a_reader_sees(tmp_path: Path) -> None:
    page = """<!doctype html><html><head><title>A &lt;page&gt;</title><style>p{}</style></head><body>
    <h1>Head</h1><p>One <b>bold</b>
    word.<br>Next</p><!-- hidden --><script>alert(1)</script>
    <ul><li>first</li><li>second</li></ul><table><tr><td>a</td><td>b</td></tr></table>
    <pre>x = 1
  y</pre></body></html>"""
    document = read_file(written(tmp_path, "p.html", page))
    assert document.title == "A <page>"
    assert document.text == "Head\n\nOne bold word.\nNext\n\nfirst\nsecond\n\na \tb\n\nx = 1\n  y"


def test_html_is_read_in_its_declared_encoding(tmp_path: Path) -> None:
    page = '<meta charset="iso-8859-1"><p>Café</p>'.encode("latin-1")
    assert read_file(written(tmp_path, "p.htm", page)).text == "Café"


def test_pdf_pages_are_found_again_by_their_starts(tmp_path: Path) -> None:
    document = read_file(written(tmp_path, "report.pdf", pdf_bytes("First page here.", "Second page here.")))
    assert document.title == "report"
    starts = document.metadata["page_starts"]
    assert [document.text[start:].split("\n")[0] for start in starts] == ["First page here.", "Second page here."]


def test_utf16_with_its_mark_is_read(tmp_path: Path) -> None:
    assert read_file(written(tmp_path, "a.txt", "Ünï".encode("utf-16"))).text == "Ünï"


def encrypted_pdf() -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf_bytes("secret")))
    writer.encrypt("password", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def scanned_pdf() -> bytes:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"\x00\x01\x02binary", "binary"),
        ("a.txt", "Café".encode("latin-1"), "not utf-8.*latin-1"),
        ("a.md", "  \n\n ", "no text"),
        ("a.html", "<script>x</script>", "no text"),
        ("a.html", b"PK\x00\x00", "binary"),
        ("a.docx", b"PK", "not a readable Word document"),
        ("a.odt", b"PK", "'.odt' cannot be read"),
        ("Makefile", b"all:\xff", "without a suffix"),
        ("a.unknown", b"one\x01two", "'.unknown'"),
        ("a.xlsx", b"PK", "Save it as .csv"),
        ("a.pdf", b"not a pdf at all", "not a readable PDF"),
        ("a.pdf", b"", "not a readable PDF"),
        ("a.pdf", encrypted_pdf(), "password"),
        ("a.pdf", scanned_pdf(), "scan"),
    ],
)
def test_unreadable_files_say_why(tmp_path: Path, name: str, data: str | bytes, reason: str) -> None:
    path = written(tmp_path, name, data)
    with pytest.raises(UnreadableFileError, match=reason) as caught:
        read_file(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_encrypted_pdf_with_an_empty_password_is_read(tmp_path: Path) -> None:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf_bytes("open to all")))
    writer.encrypt("", owner_password="owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    assert read_file(written(tmp_path, "a.pdf", out.getvalue())).text == "open to all"


def test_a_named_encoding_is_used_and_an_unknown_one_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "Café".encode("latin-1"))
    assert read_file(path, encoding="latin-1").text == "Café"
    with pytest.raises(UnreadableFileError, match="klingon"):
        read_file(path, encoding="klingon")


def test_missing_file_and_folder_given_as_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_file(tmp_path / "gone.txt")
    with pytest.raises(UnreadableFileError, match="folder"):
        read_file(tmp_path)


def test_folders_are_read_recursively_in_order_and_each_file_once(tmp_path: Path) -> None:
    written(tmp_path, "b.txt", "b")
    written(tmp_path, "a/c.md", "c")
    written(tmp_path, "README.md", "readme")
    written(tmp_path, "a/.hidden.txt", "no")
    written(tmp_path, ".git/x.txt", "no")
    written(tmp_path, "a/data.bin", b"\x00")
    documents = read_files([tmp_path, tmp_path / "b.txt"])
    assert [document.text for document in documents] == ["readme", "c", "b"]


def test_unreadable_file_in_a_folder_is_skipped_only_on_request(tmp_path: Path) -> None:
    written(tmp_path, "a.txt", "fine")
    bad = written(tmp_path, "bad.pdf", b"junk")
    errors: list[UnreadableFileError] = []
    assert len(read_files([tmp_path], skipped=errors.append)) == 1
    assert "bad.pdf" in str(errors[0])
    with pytest.raises(UnreadableFileError):
        read_files([tmp_path])
    with pytest.raises(UnreadableFileError):
        read_files([bad], skipped=errors.append)


def test_folder_without_readable_files_and_no_paths(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="no file that can be read"):
        read_files([tmp_path])
    with pytest.raises(UnreadableFileError):
        read_files([])


def test_a_word_document_keeps_its_paragraphs_and_tables_in_their_order(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx", reason="python-docx is not installed")
    written = docx.Document()
    written.core_properties.title = "The tanks"
    written.add_heading("Water", 1)
    written.add_paragraph("Tank 3 holds 300 litres.")
    table = written.add_table(2, 2)
    for row, texts in zip(table.rows, (("tank", "litres"), ("3", "300")), strict=True):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text
    written.add_paragraph("It is blue.")
    written.save(tmp_path / "tanks.docx")
    read = read_file(tmp_path / "tanks.docx")
    assert read.text == "Water\n\nTank 3 holds 300 litres.\n\ntank \tlitres\n3 \t300\n\nIt is blue."
    assert read.title == "The tanks"


def seconds_of(read: Callable[[], object]) -> float:
    def once() -> float:
        start = time.process_time()
        read()
        return time.process_time() - start

    return min(once() for _ in range(3))


HOSTILE: dict[str, tuple[str, Callable[[int], str]]] = {
    "spaces of a heading": ("a.md", lambda n: "# " + "x" + " " * n + "y"),
    "spaces before nothing": ("a.md", lambda n: "x\n# " + " " * n + "\n"),
    "hashes of a heading": ("a.md", lambda n: "# x" + "#" * n + "y"),
    "headings of nothing": ("a.md", lambda n: "x\n" + "# #\n" * n),
    "cells": ("a.html", lambda n: "<table><tr>" + "<td>x</td>" * n),
    "open cells": ("a.html", lambda n: "<table><tr>" + "<td>x" * n),
    "paragraphs": ("a.html", lambda n: "<p>x</p>" * n),
    "open paragraphs": ("a.html", lambda n: "<p>x" * n),
    "open items": ("a.html", lambda n: "<ul>" + "<li>x" * n),
    "line breaks": ("a.html", lambda n: "x<br>" * n),
    "spaces in pre": ("a.html", lambda n: "<pre>x" + " " * n + "y</pre>"),
    "open comments": ("a.html", lambda n: "y" + "x<!--" * n),
    "open tags": ("a.html", lambda n: "y" + "x<a " * n),
    "ends of nothing": ("a.html", lambda n: "y" + "</b>" * n),
    "entities": ("a.html", lambda n: "x&am" * n),
    "open navigation": ("a.html", lambda n: "y" + "<nav>x<header>" * (n // 100)),
    "unread blocks": ("a.html", lambda n: "y" + "<nav>x</nav><header>z</header>" * n),
    "fences": ("a.md", lambda n: "```\n# x\n" * n),
    "underlines": ("a.rst", lambda n: "x" + "=" * n + "\n=\n" * n),
    "ticks of a notebook": ("a.ipynb", lambda n: '{"cells": [{"cell_type": "code", "source": "%s"}]}' % ("```x" * n)),
    "escapes of a notebook": (
        "a.ipynb",
        lambda n: '{"cells": [{"cell_type": "code", "outputs": [{"text": "x%s"}]}]}' % ("\\u001b[" * n),
    ),
    "open declarations": ("a.html", lambda n: "y" + "<meta " * n),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_reading_takes_no_longer_than_the_length_of_a_file_lets_expect(name: str) -> None:
    """Eight times the length is at most 32 times the time where it is linear; 64 and more where it is quadratic."""
    file, make = HOSTILE[name]
    small, large = make(2_000).encode(), make(16_000).encode()
    short = max(seconds_of(lambda: read_bytes(file, small)), 0.002)
    assert seconds_of(lambda: read_bytes(file, large)) < 32 * short


def test_tags_within_tags_are_read_to_a_depth_and_refused_beyond() -> None:
    deep = b"<div>" * 40_000 + b"x"
    with pytest.raises(UnreadableFileError, match=r"a\.html has more than 1000 tags open.*max_depth"):
        read_bytes("a.html", deep)
    assert read_bytes("a.html", b"<div>" * 900 + b"x").text == "x"
    assert read_bytes("a.html", deep, limits=ReadLimits(max_depth=50_000)).text == "x"


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    limits = ReadLimits(max_bytes=1000)
    path = written(tmp_path, "a.txt", "x" * 1001)
    with pytest.raises(UnreadableFileError, match=r"1,000 bytes.*max_bytes"):
        read_file(path, limits=limits)
    assert read_file(written(tmp_path, "b.txt", "x" * 1000), limits=limits).text == "x" * 1000
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole, which takes no room
    with pytest.raises(UnreadableFileError, match="bytes"):
        read_file(path)


def test_a_word_document_is_measured_by_what_it_unpacks_to() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * 2**21)
    assert len(out.getvalue()) < 2**14
    with pytest.raises(UnreadableFileError, match="max_bytes"):
        read_bytes("a.docx", out.getvalue(), limits=ReadLimits(max_bytes=2**20))


@pytest.mark.parametrize(("name", "data"), [("a.html", b"<p>x" * 10), ("a.pdf", pdf_bytes("One page."))])
def test_a_file_that_takes_too_long_is_given_up(name: str, data: bytes) -> None:
    with pytest.raises(UnreadableFileError, match=r"seconds to read.*max_seconds"):
        read_bytes(name, data, limits=ReadLimits(max_seconds=1e-9))


@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_depth": -1}, {"max_seconds": float("nan")}])
def test_limits_are_numbers_above_zero(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(limits))):
        ReadLimits(**limits)  # type: ignore[arg-type]


def test_a_missing_package_is_named_and_the_others_are_not_needed() -> None:
    code = """
import sys
for package in ("pypdfium2", "docx", "lxml"):
    sys.modules[package] = None
from spec_rag.errors import MissingDependencyError
from spec_rag.loaders.reading import read_bytes
for name in ("a.pdf", "a.docx", "a.html", "a.epub"):
    try:
        read_bytes(name, b"x")
    except MissingDependencyError as error:
        print(error)
notebook = b'{"cells": [{"cell_type": "markdown", "source": "One"}]}'
print(read_bytes("a.ipynb", notebook).text, read_bytes("a.csv", b"1,2").text)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    *errors, read = done.stdout.splitlines()
    assert [re.sub(r": pip.*", "", error) for error in errors] == [
        "a.pdf: reading PDF needs pypdfium2",
        "a.docx: reading .docx needs python-docx",
        "a.html: reading HTML needs lxml",
        "a.epub: reading .epub needs lxml",
    ]
    assert all('pip install "spec-rag[cli]"' in error for error in errors)
    assert read == "One 1,2"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UnreadableFileError, match="pipe"):
        read_file(tmp_path / "a.txt")


def test_a_heading_loses_the_hashes_that_close_it_and_no_others() -> None:
    assert read_bytes("a.md", b"# C#\n").title == "C#"
    assert read_bytes("a.md", b"# ##\n# Next # \n").title == "Next"


def test_a_page_without_a_declared_encoding_is_utf8_or_else_as_browsers_guess() -> None:
    assert read_bytes("a.html", "<p>é€".encode()).text == "é€"
    assert read_bytes("a.html", "<p>é€".encode("cp1252")).text == "é€"
    assert read_bytes("a.html", "<p>é€".encode("utf-16")).text == "é€"
    assert read_bytes("a.html", b'<meta charset="no-such"><p>\xc3\xa9').text == "é"


def test_a_page_is_titled_by_its_heading_where_its_title_says_nothing() -> None:
    assert read_bytes("a.html", b"<title> </title><h1>The <i>hut</i></h1><p>x").title == "The hut"


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b" ", b"<!--", b"<b", b"</td>"])
def test_a_page_without_text_says_so(data: bytes) -> None:
    with pytest.raises(UnreadableFileError, match="holds no text"):
        read_bytes("page.html", data)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "gate.txt"
    path.write_bytes("The gate opens at nine.".encode(encoding))
    (document,) = read_files([path])
    assert document.text == "The gate opens at nine."
