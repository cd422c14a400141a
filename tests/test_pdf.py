"""PDF files as TeX and office programs write them become paragraphs of whole words."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("pypdfium2")

from pdf_files import Text, paragraph, pdf

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders import pdf as pdf_reader
from spec_rag.loaders.pdf_layout import page_texts
from spec_rag.loaders.pdf_lines import Line, Page
from spec_rag.loaders.reading import read_bytes
from spec_rag.loaders.source import ReadLimits, clock
from spec_rag.text.documents import Document

# lines of text that fill a column of 80 characters
FULL = [
    "The snow blower may be driven by two persons only, who have both been trained in",
    "the workshop and who carry the second key with them. It is kept in the shed near",
    "the north door and has to be fuelled before each of its tours round the building",
]
LAST = "of the observatory."


def read(*pages: list[Text], **options: object) -> Document:
    return read_bytes("report.pdf", pdf(*pages, **options))  # type: ignore[arg-type]


def test_words_that_are_separated_by_kerning_alone_are_separate() -> None:
    document = read(paragraph([*FULL, LAST], 700))
    assert document.text == " ".join([*FULL, LAST])


def test_lines_of_a_paragraph_are_joined_and_indented_lines_begin_a_paragraph() -> None:
    lines = [*paragraph([*FULL, LAST], 700), *paragraph([*FULL, LAST], 652, indent=15)]
    assert read(lines).text.split("\n\n") == [" ".join([*FULL, LAST])] * 2


def test_space_between_paragraphs_is_a_border_too() -> None:
    lines = [*paragraph(FULL, 700), *paragraph(FULL, 655)]
    assert read(lines).text.split("\n\n") == [" ".join(FULL)] * 2


def test_hyphens_at_line_ends_are_joined_unless_they_belong_to_the_word() -> None:
    lines = [
        "The well-known tele~",
        "scope of the well~",
        "known north tower is the first that Ms. Smith~",
        "Jones has used.",
    ]
    text = read([*paragraph(lines, 700), Text("x" * 60, 72, 500)]).text
    assert "telescope of the well-known north" in text.replace("\n", " ")
    assert "Smith-Jones" in text


def test_addresses_that_are_broken_behind_a_slash_are_whole() -> None:
    first = "The manual of the telescope and of its dome can be found at https://example.org/"
    assert (
        "https://example.org/manual/index.html for" in read(paragraph([first, "manual/index.html for all."], 700)).text
    )


def test_numbered_headings_are_paragraphs_of_their_own() -> None:
    lines = [
        Text("2.1 | Who may drive", 72, 700, 12, "F2"),
        *paragraph(FULL, 680),
        Text("2.2 Fuel", 72, 640, 10, "F2"),
        *paragraph(FULL, 628),
    ]
    assert read(lines).text.split("\n\n") == ["2.1 Who may drive", " ".join(FULL), "2.2 Fuel", " ".join(FULL)]


def test_list_items_are_lines() -> None:
    lines = [
        *paragraph(FULL, 700),
        Text("1. Turn the key and wait for the lamp, which is green when the oil is warm and is", 90, 664),
        Text("red when it is not.", 102, 652),
        Text("2. Pull the lever.", 90, 640),
    ]
    assert read(lines).text.split("\n")[-2:] == [
        "1. Turn the key and wait for the lamp, which is green when the oil is warm and is red when it is not.",
        "2. Pull the lever.",
    ]


def test_rows_of_a_table_are_lines_with_separate_cells() -> None:
    lines = [
        *paragraph(FULL, 700),
        Text("Tank | Litres", 72, 650),
        Text("3 | 300", 72, 638),
        Text("North 4 | 42,500", 72, 626),
    ]
    assert read(lines).text.split("\n\n")[-1] == "Tank \tLitres\n3 \t300\nNorth 4 \t42,500"


def test_code_keeps_its_lines() -> None:
    code = [Text(line, 72, 600 - 12 * i, 10, "F3") for i, line in enumerate(["$ make all", "$ make install"])]
    assert read([*paragraph(FULL, 700), *code]).text.endswith("\n\n$ make all\n$ make install")


def manual(pages: int = 6) -> list[list[Text]]:
    """Pages with a running head, which alternates, and a page number."""
    made = []
    for n in range(pages):
        head = Text("Handbook of the north dome" if n % 2 else f"Chapter {n // 2} On snow", 72, 750, 9)
        made.append([head, *paragraph([*FULL, f"Tour {n} ends."], 700), Text(str(n + 1), 300, 40)])
    return made


def test_the_running_head_of_a_late_chapter_is_dropped() -> None:
    heads = ["A foreword of its own", "Thanks to many", "Of snow", "Of ice", "Of wind", *["Tours round the dome"] * 4]
    pages = [
        [Text(head, 72, 750, 9), *paragraph([*FULL, f"Tour {n} ends."], 700)]
        for n, head in enumerate([*heads[:5], *heads])
    ]
    assert "round the dome" not in read(*pages).text


def test_running_heads_and_page_numbers_are_dropped_and_pages_are_found_again() -> None:
    document = read(*manual())
    assert "Handbook" not in document.text
    assert document.text.split("\n\n") == [" ".join([*FULL, f"Tour {n} ends."]) for n in range(6)]
    starts = document.metadata["page_starts"]
    assert [document.text[start:].startswith("The snow blower") for start in starts] == [True] * 6
    ends = [*starts[1:], len(document.text)]
    assert [f"Tour {n} ends." in document.text[a:b] for n, (a, b) in enumerate(zip(starts, ends, strict=True))] == [
        True
    ] * 6


@pytest.mark.parametrize("foot", ["{}", "- {} -", "Page {}", "Page {} of 6", "{} / 6", "[{}]"])
def test_page_numbers_have_many_forms(foot: str) -> None:
    pages = [[*paragraph([*FULL, f"Tour {n} ends."], 700), Text(foot.format(n + 1), 300, 40)] for n in range(6)]
    assert read(*pages).text.split("\n\n") == [" ".join([*FULL, f"Tour {n} ends."]) for n in range(6)]


def test_lines_that_are_alike_but_part_of_the_text_stay() -> None:
    tanks = [f"Tank {i} holds {10 * i} litres." for i in range(5)]
    assert read(*[[Text(tank)] for tank in tanks]).text.split("\n\n") == tanks
    slides = [[Text(f"Step {i}", 72, 740, 24), *paragraph(FULL, 600)] for i in range(5)]
    assert [f"Step {i}" in read(*slides).text for i in range(5)] == [True] * 5
    steps = [[Text(f"Question {i + 1}", 72, 740), *paragraph(FULL, 700)] for i in range(5)]
    assert [f"Question {i + 1}" in read(*steps).text for i in range(5)] == [True] * 5
    assert read(*[paragraph(FULL, 700)] * 4).text.count(FULL[0]) == 4
    years = [Text(f"{year}", 72, 700 - 12 * i) for i, year in enumerate(range(1990, 1996))]
    assert read(years).text.split() == [str(year) for year in range(1990, 1996)]


def test_a_table_of_contents_is_dropped_and_a_price_list_is_not() -> None:
    entries = [f"{i}.1 Part {i} of it . . . . . . . . . . . {i + 1}" for i in range(1, 6)]
    contents = [Text("Contents", 72, 740, 14, "F2"), *[Text(line, 72, 700 - 14 * i) for i, line in enumerate(entries)]]
    document = read(contents, paragraph([*FULL, LAST], 700))
    assert document.text == " ".join([*FULL, LAST])
    assert document.metadata["page_starts"] == [0, 0]
    plain = [
        "1 | Snow | 2",
        "2 | A title that is too long for a line of the contents",
        "and goes on | 3",
        "3 | Fuel | 5",
    ]
    contents = [Text("Contents", 72, 740, 14, "F2"), *[Text(line, 72, 700 - 14 * i) for i, line in enumerate(plain)]]
    assert read([*contents, *paragraph([*FULL, LAST], 600)]).text == " ".join([*FULL, LAST])
    prices = [f"Soup {i} ............ {price}" for i, price in enumerate((700, 450, 900, 320, 800))]
    assert "Soup 4 ............ 800" in read([Text(line, 72, 700 - 14 * i) for i, line in enumerate(prices)]).text


def test_a_paragraph_goes_on_over_the_page_and_the_column() -> None:
    left = paragraph(FULL[:2], 700, x=40, size=5)
    right = paragraph(["the north door and more."], 700, x=340, size=5)
    assert read([*left, *right]).text == " ".join([*FULL[:2], "the north door and more."])
    assert read(paragraph(FULL[:2], 100), paragraph(["the north door and more."], 700)).text == " ".join(
        [*FULL[:2], "the north door and more."]
    )


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ("The north dome", "The north dome"),
        ("  Two \n words ", "Two words"),
        (None, "report"),
        ("", "report"),
        ("untitled", "report"),
        ("main.dvi", "report"),
        ("Microsoft Word - notes.doc", "report"),
    ],
)
def test_the_title_is_that_of_the_properties_unless_a_program_made_it(given: str | None, title: str) -> None:
    document = read(paragraph(FULL, 700), title=given)
    assert document.title == title
    assert document.metadata.get("title") == (None if title == "report" else title)


def test_too_many_pages_are_refused() -> None:
    with pytest.raises(UnreadableFileError, match=r"has 3 pages, more than 2.*max_pages"):
        read_bytes("a.pdf", pdf(*manual(3)), limits=ReadLimits(max_pages=2))


def test_a_file_cut_anywhere_is_read_or_refused() -> None:
    whole = pdf(*manual(2))
    for cut in range(0, len(whole), len(whole) // 12):
        with suppress(UnreadableFileError):
            assert read_bytes("a.pdf", whole[:cut]).text


def test_a_reader_that_hangs_is_ended_and_one_that_crashes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pdf(*manual(1))
    monkeypatch.setattr(pdf_reader, "_WORKER", "import time; time.sleep(600)")
    started = time.monotonic()
    with pytest.raises(UnreadableFileError, match="seconds to read"):
        read_bytes("a.pdf", data, limits=ReadLimits(max_seconds=0.02))
    assert time.monotonic() - started < 60
    monkeypatch.setattr(pdf_reader, "_WORKER", "import os; os.abort()")
    with pytest.raises(UnreadableFileError, match="not a readable PDF"):
        read_bytes("a.pdf", data)


def test_pages_are_read_in_this_process_where_python_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert read(paragraph([*FULL, LAST], 700)).text == " ".join([*FULL, LAST])
    with pytest.raises(UnreadableFileError, match="not a readable PDF"):
        read_bytes("a.pdf", b"%PDF-1.4 junk")


def test_time_is_that_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.monotonic()
    check = clock(Path("a.html"), ReadLimits(max_seconds=1.0))
    monkeypatch.setattr(time, "monotonic", lambda: start + 20)
    check()  # a busy machine
    monkeypatch.setattr(time, "monotonic", lambda: start + 1000)
    with pytest.raises(UnreadableFileError, match="seconds to read"):
        check()
    monkeypatch.undo()
    now = time.thread_time()
    monkeypatch.setattr(time, "thread_time", lambda: now + 1.5)
    with pytest.raises(UnreadableFileError, match="seconds to read"):
        check()


@pytest.mark.parametrize("piece", ["x", "www.", "-", ". ", "…", "x-", "1 ", "((", "´a", "x\t", " \t", "9. 1", "."])
def test_putting_lines_together_takes_time_linear_in_their_length(piece: str) -> None:
    def seconds(length: int) -> float:
        lines = [Line(piece * length, 72, 500, 700 - 12 * i, 10, hyphenated=i == 1) for i in range(4)]

        def once() -> float:
            start = time.process_time()
            page_texts([Page(612, 792, lines)] * 4, lambda: None)
            return time.process_time() - start

        return min(once() for _ in range(3))

    short = max(seconds(1000), 0.002)
    assert seconds(8000) < 32 * short


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of processes are those of POSIX")
def test_the_process_that_reads_is_limited() -> None:
    import subprocess

    code = (
        "import resource; from spec_rag.loaders.pdf_worker import _limit_process; _limit_process(7.2); "
        "print(resource.getrlimit(resource.RLIMIT_CPU)[0], resource.getrlimit(resource.RLIMIT_AS)[0] > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["11", "True"]
