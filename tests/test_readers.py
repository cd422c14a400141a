"""Notebooks, books, pages, Word documents, and the text formats: what is read of them, and what is left out."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lxml")

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.reading import SUFFIXES, read_bytes, read_files
from spec_rag.loaders.source import ReadLimits

DATA = 'tank;litres\n"3";  300\n\n# end\t\n'


@pytest.mark.parametrize(
    "suffix",
    """
    .csv .tsv .json .jsonl .yaml .toml .ini .log .xml .py .ts .java .c .cpp .h .go .rs .rb .php .sh .sql .R
    """.split(),  # noqa: SIM905
)
def test_data_and_source_files_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"tank{suffix}").write_text(DATA, encoding="utf-8")
    (document,) = read_files([tmp_path])
    assert (document.text, document.title) == (DATA, "tank")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("=====\nTanks\n=====\n\nText.\n", "Tanks"),
        ("Intro.\n\nTanks & more\n------------\n", "Tanks & more"),
        (".. note:: x\n\n天文台\n======\n", "天文台"),
        ("No section\n--\n\n* * *\n", "a"),
        ("-----\n\n-----\n", "a"),
        ("", None),
    ],
)
def test_restructured_text_is_titled_by_its_first_section(text: str, title: str | None) -> None:
    if title is None:
        with pytest.raises(UnreadableFileError, match="no text"):
            read_bytes("a.rst", text.encode())
        return
    document = read_bytes("a.rst", text.encode())
    assert (document.text, document.title) == (text, title)


def test_comments_in_fenced_code_are_no_headings() -> None:
    assert read_bytes("a.md", b"```sh\n# install\n```\n\n# Tanks\n").title == "Tanks"


def notebook(*cells: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"nbformat": 4, "metadata": {}, "cells": cells, **fields}).encode()


def test_a_notebook_is_read_cell_by_cell() -> None:
    long = "x" * 3000
    data = notebook(
        {"cell_type": "markdown", "source": ["# Tanks\n", "Some are *large*."]},
        {
            "cell_type": "code",
            "source": "litres = 300\n# no heading\nlitres",
            "outputs": [
                {"output_type": "stream", "text": ["one\n", "two\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "300", "text/html": "<b>300</b>"}},
                {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo="}},
                {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": ["\x1b[0m"]},
            ],
        },
        {"cell_type": "code", "source": "```", "outputs": [{"output_type": "stream", "text": long}]},
        {"cell_type": "raw", "source": "raw"},
        {"cell_type": "code", "source": "", "outputs": []},
        metadata={"language_info": {"name": "python"}},
    )
    document = read_bytes("a.ipynb", data)
    assert document.title == "Tanks"
    assert document.text.split("\n\n") == [
        "# Tanks\nSome are *large*.",
        "```python\nlitres = 300\n# no heading\nlitres\n```",
        "```\none\ntwo\n300\nKeyError: 'x'\n```",
        "````python\n```\n````",
        f"```\n{'x' * 1000}\n[2000 more characters of output]\n```",
        "raw",
    ]


def test_an_old_notebook_is_read_and_a_damaged_one_refused() -> None:
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["x = 1"]}]}], "nbformat": 3}
    assert read_bytes("a.ipynb", json.dumps(old).encode()).text == "```\nx = 1\n```"
    for data in (b"{", b"[]", b"{}", b'{"cells": 3}', b'{"cells": [1]}', b"[" * 100_000, b'{"worksheets": [2]}'):
        with pytest.raises(UnreadableFileError, match="not a readable Jupyter notebook"):
            read_bytes("a.ipynb", data)


CONTAINER = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>%s</rootfiles></container>'


def zipped(members: dict[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def epub(chapters: dict[str, str], **more: str | bytes) -> bytes:
    items = "".join(
        f'<item id="{name}" href="text/{name}.xhtml" media-type="application/xhtml+xml"/>' for name in sorted(chapters)
    )
    spine = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        "<dc:title>The\n north tower</dc:title></metadata><manifest>"
        '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
        f'<item id="css" href="a.css" media-type="text/css"/>{items}</manifest>'
        f'<spine><itemref idref="nav"/>{spine}</spine></package>'
    )
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": CONTAINER % '<rootfile full-path="OEBPS/book.opf"/>',
            "OEBPS/book.opf": package,
            "OEBPS/nav.xhtml": "<nav>Contents</nav>",
            **{
                f"OEBPS/text/{name}.xhtml": f'<?xml version="1.0" encoding="utf-8"?><html><body>{text}</body></html>'
                for name, text in chapters.items()
            },
            **more,
        }
    )


def test_a_book_is_read_in_the_order_of_its_spine() -> None:
    data = epub({"b": "<h1>One</h1><p>Käse.</p>", "a": "<h1>Two</h1><aside epub:type='footnote'>Note.</aside>"})
    document = read_bytes("a.epub", data)
    assert document.text == "One\n\nKäse.\n\nTwo\n\nNote."
    assert (document.title, document.metadata["title"]) == ("The north tower",) * 2


def test_a_book_does_not_read_other_files() -> None:
    entity = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    data = epub({"a": "<p>One &e; two.</p>"}, **{"META-INF/container.xml": entity + CONTAINER % "&e;"})
    with pytest.raises(UnreadableFileError):
        read_bytes("a.epub", data)
    chapter = f"{entity}<html><body><p>One &e; two.</p></body></html>"
    text = read_bytes("a.epub", epub({"a": ""}, **{"OEBPS/text/a.xhtml": chapter})).text
    assert "root:" not in text
    assert "One" in text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PK", "not a readable EPUB"),
        (zipped({"mimetype": "x"}), "not a readable EPUB"),
        (zipped({"META-INF/container.xml": "<a"}), "not a readable EPUB"),
        (zipped({"META-INF/container.xml": CONTAINER % ""}), "names no package"),
        (zipped({"META-INF/container.xml": CONTAINER % '<rootfile full-path="../../x"/>'}), "not a readable EPUB"),
        (epub({}), "holds no text"),
        (
            epub({"a": "x"}, **{"META-INF/encryption.xml": '<e><EncryptionMethod Algorithm="aes128-cbc"/></e>'}),
            "protected",
        ),
    ],
)
def test_a_book_that_cannot_be_read_says_why(data: bytes, says: str) -> None:
    with pytest.raises(UnreadableFileError, match=says):
        read_bytes("a.epub", data)


@pytest.mark.parametrize("name", ["a.epub", "a.docx"])
def test_what_an_archive_unpacks_to_is_limited_even_if_it_lies_about_its_size(name: str) -> None:
    data = bytearray(epub({"a": "<p>" + "x" * 2**21}))
    with pytest.raises(UnreadableFileError, match="max_bytes"):
        read_bytes(name, bytes(data), limits=ReadLimits(max_bytes=2**20))
    size = zipfile.ZipFile(io.BytesIO(bytes(data))).getinfo("OEBPS/text/a.xhtml").file_size.to_bytes(4, "little")
    assert data.count(size) == 2
    with pytest.raises(UnreadableFileError):
        read_bytes(name, bytes(data.replace(size, (10).to_bytes(4, "little"))), limits=ReadLimits(max_bytes=2**20))


def page(markup: str) -> str:
    return read_bytes("a.html", markup.encode()).text


def test_what_surrounds_the_text_of_a_page_is_left_out() -> None:
    assert (
        page(
            "<body><header><a href='/'>Site</a><nav>Home</nav></header><nav><ul><li>Menu</ul></nav>"
            "<div role='navigation'>Path</div><main><h1>The hut</h1><article><header>By Ada</header><p>Body"
            "<footer>Signed</footer></article><aside>Ad</aside></main><div role='dialog'>Cookies</div>"
            "<p hidden>Secret<div><template>x</template></div><footer>(c)</footer><script>1</script></body>"
        )
        == "The hut\n\nBy Ada\n\nBody\n\nSigned"
    )


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<header><h1>The hut</h1><p>Ada, 2024</p></header><p>Body", "The hut\n\nAda, 2024\n\nBody"),
        ("<header><h1>The hut</h1></header><p>Body", "The hut\n\nBody"),
        ("<header><p>Slogan</p></header><p>Body", "Body"),
        ("<section><p>Body<aside class='footnote brackets'>1 Note</aside></section>", "Body\n\n1 Note"),
        ("<aside role='doc-footnote'>Note</aside>", "Note"),
        ("<header><p>Nothing else</p></header>", "Nothing else"),
        ("<p>One<nav>Menu<p>Still menu</nav>Two</p></body></html><p>Three", "One\n\nTwo\n\nThree"),
        ("<nav>Menu", "Menu"),
        ("<header><header><h1>x</h1></header><a>y</a></header>z", "z"),
        ("<?xml version='1.0' encoding='iso-8859-1'?><p>x</p>", "x"),
    ],
)
def test_notes_title_blocks_and_pages_of_nothing_else_are_read(markup: str, text: str) -> None:
    assert page(markup) == text


def test_a_page_in_xml_is_read_in_its_declared_encoding() -> None:
    data = "<?xml version='1.0' encoding='iso-8859-1'?><html><body><p>Käse</p></body></html>".encode("latin-1")
    assert read_bytes("a.xhtml", data).text == "Käse"


def word(*elements: str, numbering: str = "", styles: str = "", notes: str = "") -> bytes:
    """A Word document of XML elements."""
    docx = pytest.importorskip("docx")
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    document = docx.Document()
    body = document.element.body
    compatibility = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    for element in elements:
        parsed = parse_xml(f"<w:x {nsdecls('w')} {compatibility}>{element}</w:x>")
        for child in list(parsed):
            body.insert(len(body) - 1, child)
    if numbering:
        root = document.part.numbering_part.element
        for child in list(root):
            root.remove(child)
        root.extend(list(parse_xml(f"<w:x {nsdecls('w')}>{numbering}</w:x>")))
    for style in parse_xml(f"<w:x {nsdecls('w')}>{styles}</w:x>"):
        document.styles.element.append(style)
    out = io.BytesIO()
    document.save(out)
    if notes:
        with zipfile.ZipFile(out, "a") as archive:
            archive.writestr("word/footnotes.xml", f"<w:footnotes {nsdecls('w')}>{notes}</w:footnotes>")
    return out.getvalue()


def p(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t xml:space='preserve'>{text}</w:t></w:r></w:p>"


def item(text: str, level: int = 0, number: int = 1) -> str:
    return p(text, f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>')


def level(i: int, form: str, text: str, more: str = "") -> str:
    return (
        f'<w:lvl w:ilvl="{i}"><w:start w:val="1"/><w:numFmt w:val="{form}"/>{more}<w:lvlText w:val="{text}"/></w:lvl>'
    )


def test_list_items_and_headings_of_word_have_their_numbers() -> None:
    numbering = (
        f'<w:abstractNum w:abstractNumId="0">{level(0, "decimal", "%1.")}{level(1, "lowerLetter", "%1.%2)")}'
        f"{level(2, 'upperRoman', '(%3)')}</w:abstractNum>"
        f'<w:abstractNum w:abstractNumId="1">{level(0, "bullet", chr(0xF0B7))}</w:abstractNum>'
        '<w:abstractNum w:abstractNumId="2">'
        + level(0, "decimal", "%1", '<w:pStyle w:val="Title1"/>')
        + level(1, "decimal", "%1.%2", '<w:pStyle w:val="Title2"/>')
        + "</w:abstractNum>"
        '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>'
        '<w:num w:numId="3"><w:abstractNumId w:val="0"/><w:lvlOverride w:ilvl="0"><w:startOverride w:val="5"/>'
        '</w:lvlOverride></w:num><w:num w:numId="4"><w:abstractNumId w:val="2"/></w:num>'
    )
    styles = (
        '<w:style w:type="paragraph" w:styleId="Title1"><w:pPr><w:numPr><w:numId w:val="4"/></w:numPr></w:pPr>'
        "</w:style>"
        '<w:style w:type="paragraph" w:styleId="Title2"><w:basedOn w:val="Title1"/><w:pPr><w:numPr>'
        '<w:ilvl w:val="1"/></w:numPr></w:pPr></w:style>'
    )
    heading = '<w:pStyle w:val="Title{}"/>'
    data = word(
        p("Tanks", heading.format(1)),
        p("Large", heading.format(2)),
        p("Small", heading.format(2)),
        p("Pumps", heading.format(1)),
        p("Old", heading.format(2)),
        item("Fill"),
        item("slowly", 1),
        item("fast", 1),
        item("very", 2),
        item("Empty"),
        item("again", 1),
        item("Dot", number=2),
        item("Fifth", number=3),
        item("Sixth", number=3),
        p("End"),
        numbering=numbering,
        styles=styles,
    )
    assert read_bytes("a.docx", data).text == (
        "1 Tanks\n\n1.1 Large\n\n1.2 Small\n\n2 Pumps\n\n2.1 Old\n\n"
        "1. Fill\n1.a) slowly\n1.b) fast\n(I) very\n2. Empty\n2.a) again\n• Dot\n5. Fifth\n6. Sixth\n\nEnd"
    )


def test_merged_cells_are_given_once_and_tables_in_cells_are_read(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    table = document.add_table(3, 3)
    for i, row in enumerate(table.rows):
        for j, cell in enumerate(row.cells):
            cell.text = f"{i}{j}"
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    table.cell(1, 0).merge(table.cell(2, 0)).text = "high"
    inner = table.cell(2, 2).add_table(1, 2)
    inner.cell(0, 0).text, inner.cell(0, 1).text = "in", "ner"
    document.save(tmp_path / "a.docx")
    (read,) = read_files([tmp_path])
    assert read.text == "wide \t02\nhigh \t11 \t12\n \t21 \t22\nin \tner"


def test_nothing_of_a_word_document_is_lost() -> None:
    run = "<w:r><w:t>{}</w:t></w:r>"
    deleted = "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
    separator = f"<w:footnote w:type='separator' w:id='0'>{p('x')}</w:footnote>"
    fallback = f"<mc:Fallback><w:txbxContent>{p('Boxed')}</w:txbxContent></mc:Fallback>"
    box = f"<w:r><mc:AlternateContent><mc:Choice Requires='wps'><w:txbxContent>{p('Boxed')}</w:txbxContent></mc:Choice>"
    data = word(
        f"<w:sdt><w:sdtContent>{p('Controlled')}</w:sdtContent></w:sdt>",
        f"<w:p>{run.format('Old ')}<w:ins>{run.format('new')}</w:ins>{deleted}</w:p>",
        f"<w:p><w:hyperlink>{run.format('Link')}</w:hyperlink><w:r><w:tab/></w:r><w:sdt><w:sdtContent>{run.format('inline')}"
        "</w:sdtContent></w:sdt><w:r><w:br/></w:r><w:r><w:noBreakHyphen/></w:r></w:p>",
        f"<w:p>{run.format('Text')}<w:r><w:footnoteReference w:id='2'/></w:r>{run.format('.')}</w:p>",
        f"<w:p>{box}{fallback}</mc:AlternateContent></w:r></w:p>",
        notes=f"{separator}<w:footnote w:id='2'>{p('A note.')}</w:footnote>",
    )
    assert (
        read_bytes("a.docx", data).text
        == "Controlled\n\nOld new\n\nLink\tinline\n-\n\nText[1].\n\nBoxed\n\n[1] A note."
    )


def test_folders_are_searched_for_all_of_these(tmp_path: Path) -> None:
    assert {".rst", ".csv", ".json", ".ipynb", ".epub", ".py", ".pdf", ".docx", ".html", ".md", ".txt"} <= set(SUFFIXES)
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    (tmp_path / "a.ipynb").write_bytes(notebook({"cell_type": "markdown", "source": "One"}))
    (tmp_path / "b.epub").write_bytes(epub({"a": "<p>Two</p>"}))
    (tmp_path / "c.bin").write_bytes(b"\x00")
    assert [document.text for document in read_files([tmp_path])] == ["One", "Two"]
