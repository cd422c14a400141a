"""What was kept, shown as a table, a page and a chart."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from spec_rag.report import Compression, compression_html, compression_table
from spec_rag.results import CompressedDocument, KeptUnit
from spec_rag.text.documents import Document

pytest.importorskip("rich")

TEXT = "First <b>fact</b> & more. Second fact. Third."


def document(text: str = TEXT, title: str | None = "Title", **values: object) -> CompressedDocument:
    units = [KeptUnit(0, 25, 0.5, 8, True), KeptUnit(26, 38, -0.25, 3, False), KeptUnit(39, 45, 0.1, 2, True)]
    settings: dict[str, object] = {
        "text": f"{text[:25]} … {text[39:45]}",
        "spans": [(0, 25), (39, 45)],
        "source": Document(text, title, metadata={"source": "folder/a.md", "start": 100, "end": 145}),
        "title": title,
        "original_text": text,
        "tokens_before": 1013,
        "tokens_after": 10,
        "units": units,
        **values,
    }
    return CompressedDocument(**settings)  # type: ignore[arg-type]


def compression(*documents: CompressedDocument, **values: object) -> Compression:
    settings: dict[str, object] = {
        "query": "What <i>now</i>?",
        "budget_tokens": 300,
        "draft": "owner/draft",
        "draft_seconds": 1.25,
        "settings": {"ratio": 0.25, "coverage": None, "unit": "sentence"},
        **values,
    }
    return Compression(list(documents), **settings)  # type: ignore[arg-type]


def chart_of(shown: Compression) -> str:
    """The <svg> of the page."""
    html = compression_html(shown)
    return html[html.index("<svg") : html.index("</svg>")]


def table_text(of: Compression, width: int = 120) -> str:
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: SIM115
    console.print(of)
    return console.export_text()


class Page(HTMLParser):
    """Collects the text by the class of its <span>, and every tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.pieces: list[tuple[str, str | None, str]] = []
        self.tags: list[str] = []
        self._open: tuple[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "span":
            self._open = (dict(attrs)["class"] or "", dict(attrs).get("title"))

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.pieces.append((*self._open, data))


def test_page_shows_every_character_kept_or_dropped_with_its_importance() -> None:
    page = Page(compression_html(compression(document())))
    assert "".join(text for _, _, text in page.pieces) == TEXT
    assert [text for kind, _, text in page.pieces if kind == "kept"] == [TEXT[:25], TEXT[39:45]]
    hints = {text: hint for _, hint, text in page.pieces}
    assert hints["Second fact."] == "importance -0.25 · 3 tokens"


def test_page_says_why_each_unit_stayed_and_marks_what_was_held() -> None:
    units = [
        KeptUnit(0, 25, 0.5, 8, True, "score"),
        KeptUnit(26, 38, -0.25, 3, False),
        KeptUnit(39, 45, 0.1, 2, True, "keep"),
    ]
    settings = {"keep": ("numbers", re.compile("a|b"), holds), "keep_first": 0, "threshold": 0, "order": "given"}
    html = compression_html(compression(document(units=units), settings=settings))
    page = Page(html)
    assert [(kind, text) for kind, _, text in page.pieces if "kept" in kind] == [
        ("kept", TEXT[:25]),
        ("kept held", TEXT[39:45]),
    ]
    hints = {text: hint for _, hint, text in page.pieces}
    assert hints[TEXT[:25]] == "importance 0.5 · 8 tokens · kept: for its score"
    assert hints[TEXT[39:45]] == "importance 0.1 · 2 tokens · kept: keep= matches it"
    assert "2 of 3 (score 1, keep 1)" in html
    assert "keep numbers and a|b and holds, threshold 0, order given" in html


def test_page_has_the_colours_of_the_server_page_and_a_shade_for_structure() -> None:
    units = [KeptUnit(0, 25, 0.5, 8, True, "score"), KeptUnit(39, 45, -0.1, 2, True, "structure")]
    html = compression_html(compression(document(units=units)))
    assert [(kind, text) for kind, _, text in Page(html).pieces if kind != "dropped"] == [
        ("kept", TEXT[:25]),
        ("structure", TEXT[39:45]),
    ]
    styles = (resources.files("spec_rag") / "data" / "marks.css").read_text(encoding="utf-8")
    assert styles in html
    # a line under kept text shows its importance; kept text is reached with the keyboard or a touch
    assert html.count('tabindex="0"') == 2
    assert html.count('style="--weight: 0.500"') == 1


def holds(text: str) -> bool:
    return True


def test_page_escapes_documents_titles_queries_and_settings() -> None:
    evil = "<script>alert('x')</script> \" & <img src=x onerror=y>"
    given = document(evil, evil, source=Document(evil, metadata={"source": evil}), units=[], spans=[(0, len(evil))])
    html = compression_html(compression(given, query=evil, draft=evil, settings={evil: evil}))
    tags = set(Page(html).tags)
    assert "script" not in tags
    assert "img" not in tags
    assert "".join(text for _, _, text in Page(html).pieces) == evil
    assert "onerror=y>" not in html


def test_page_needs_nothing_from_elsewhere_and_says_the_numbers() -> None:
    html = compression_html(compression(document()))
    assert "http" not in html.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for number in ("1,013 → 10", "300", "1.25", "owner/draft", "folder/a.md:100-145", "ratio 0.25"):
        assert number in html
    assert "coverage" not in html


def test_partly_kept_unit_is_cut_where_the_span_ends() -> None:
    page = Page(compression_html(compression(document(spans=[(6, 20)]))))
    assert [text for kind, _, text in page.pieces if kind == "kept"] == [TEXT[6:20]]
    assert "".join(text for _, _, text in page.pieces) == TEXT


def test_what_passed_through_is_all_kept() -> None:
    given = document(units=[], spans=[(0, len(TEXT))], text=TEXT)
    page = Page(compression_html(compression(given, draft_seconds=0.0)))
    assert [(kind, text) for kind, _, text in page.pieces] == [("kept", TEXT)]
    assert "draft was not asked" in table_text(compression(given, draft_seconds=0.0))


def test_chart_has_a_bar_per_unit_inside_its_box() -> None:
    svg = chart_of(compression(document(), document()))
    bars = re.findall(r'<rect class="(\w+)" .*?x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    assert [bar[0] for bar in bars] == ["kept", "dropped", "kept"] * 2
    assert all(float(x) >= 0 and float(x) + float(w) <= 1000.5 for _, x, _, w, _ in bars)
    assert all(float(y) >= 0 and float(y) + float(h) == pytest.approx(90, abs=0.1) for _, _, y, _, h in bars)
    assert float(bars[0][4]) > float(bars[2][4]) > float(bars[1][4])


@pytest.mark.parametrize("importance", [float("nan"), float("inf"), float("-inf"), 0.0, 1e30])
def test_chart_stands_any_importance(importance: float) -> None:
    given = document(units=[KeptUnit(0, 10, importance, 2, True), KeptUnit(11, 20, 0.5, 2, False)])
    svg = chart_of(compression(given))
    assert svg.count("<rect") == 2
    assert "nan" not in re.sub(r"<title>.*?</title>", "", svg)


def test_empty_compressions_can_be_shown() -> None:
    nothing = CompressedDocument("", [], "", None, "", 0, 0)
    for empty in (compression(), compression(nothing)):
        assert "<rect" not in compression_html(empty)
        assert "Total" in table_text(empty)


def test_table_has_a_row_per_document_and_a_total() -> None:
    text = table_text(compression(document(), document(title="[red]Other[/red]", text="", spans=[], tokens_after=0)))
    assert "What <i>now</i>?" in text
    assert "First <b>fact</b> & more." in text
    assert "[red]Other[/red]" in text
    assert "a.md:100-145" in text
    assert "2,026 → 10" in text
    assert "budget 300" in text
    assert "draft owner/draft: 1.25 s" in text


@pytest.mark.parametrize(("characters", "shown"), [(100, "q" * 100), (101, "q" * 99 + "…")])
def test_table_shows_a_hundred_characters_of_the_query(characters: int, shown: str) -> None:
    assert str(compression_table(compression(document(), query="q" * characters)).title) == shown


def test_table_fits_a_narrow_terminal() -> None:
    lines = table_text(compression(document(title="A long title " * 10)), width=60).splitlines()
    assert max(map(len, lines)) <= 60


def test_table_is_the_table_of_a_compression() -> None:
    assert compression_table(compression(document())).row_count == 1


def test_table_shows_control_characters_and_obeys_none() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m A tank [link=http://x]leaks[/link]. \x7f\r"
    shown = table_text(compression(document(evil, evil), query=f"Which {evil}?"))
    assert not set(shown) & {*map(chr, range(9)), *map(chr, range(11, 32)), *map(chr, range(0x7F, 0xA0))}
    assert "\u241b" in shown
    assert "[link" in shown
