"""The page in a real browser: files, question, streamed answer, sources, budget, comparison, what goes wrong."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving.helpers import FACTS, Endless, engine, served, settings

from spec_rag.serving.engine import LocalEngine
from spec_rag.utils.cancellation import in_thread

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright.expect.set_options(timeout=30_000)
SHOTS = os.environ.get("SPEC_RAG_SCREENSHOTS")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no chromium on the path")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        try:
            launched = started.chromium.launch(
                executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            )
        except playwright.Error as error:
            pytest.skip(f"{BROWSER} does not start: {str(error).splitlines()[0]}")
        yield launched
        launched.close()


class Page:
    """A page with what its console said."""

    def __init__(self, browser: Any, url: str, **look: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **look})
        self.page.set_default_timeout(20_000)
        self.wrong: list[str] = []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.wrong.append(said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(f"{url}/app/")

    def shot(self, name: str) -> None:
        if SHOTS:
            self.page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)

    def add(self, *files: tuple[str, bytes]) -> None:
        self.page.set_input_files(
            "#files", [{"name": name, "mimeType": "text/plain", "buffer": data} for name, data in files]
        )

    def says(self, text: str) -> None:
        playwright.expect(self.page.locator("#status")).to_have_text(re.compile(text))

    def kept(self) -> int:
        return int(self.page.locator(".unit.kept").count())


FILES = [(f"{title}.md", f"# {title}\n\n{text}\n".encode()) for title, text in FACTS]


@needs_browser
@pytest.mark.parametrize(
    "look",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
    ],
    ids=["light-wide", "dark-wide", "light-narrow"],
)
def test_the_whole_way(browser: Any, url: str, look: dict[str, Any], request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    shown = Page(browser, url, **look)
    page = shown.page
    playwright.expect(page.locator("#models")).to_have_text("tiny-target")
    assert page.locator("#key-row, #stop, #answers, #progress").locator("visible=true").count() == 0
    shown.shot(f"{name}-empty")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    page.click("#ask")
    shown.says("Add a file first")
    shown.add(*FILES, ("broken.pdf", b"no pdf"))
    playwright.expect(page.locator("#list li.wrong")).to_contain_text("broken.pdf is not a readable PDF")
    playwright.expect(page.locator("#list li:not(.wrong) .state").nth(1)).to_contain_text("tokens")
    shown.shot(f"{name}-files")
    page.click("#ask")
    shown.says("Write a question first")
    page.fill("#question", "How much does tank 3 hold?")
    page.check("#compare")
    page.keyboard.press("Tab")  # on to the button
    page.locator("#question").press("Enter")
    shown.says("Done")
    answers = page.locator(".answer").all_inner_texts()
    assert all(answers)
    costs = [int(re.sub(r"\D", "", cost.split(" tokens")[0])) for cost in page.locator(".cost").all_inner_texts()]
    assert costs[0] < costs[1] / 2
    quarter = shown.kept()
    assert 0 < quarter < page.locator(".unit").count() / 2
    weights = page.eval_on_selector_all(".unit", "all => all.map(one => one.style.getPropertyValue('--weight'))")
    assert len(set(weights)) > 5
    numbers = page.locator("#numbers").inner_text()
    assert "KiB" in numbers
    shown.shot(f"{name}-asked")
    page.focus("#budget")
    page.keyboard.press("End")
    playwright.expect(page.locator(".unit:not(.kept)")).to_have_count(0)
    assert page.locator("#share").inner_text() == "100 %"
    page.keyboard.press("Home")
    for _ in range(200):
        if shown.kept() < quarter:
            break
        page.wait_for_timeout(20)
    assert 0 < shown.kept() < quarter
    shown.shot(f"{name}-budget")
    assert page.locator("#history tbody tr").count() == 1
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    colours = page.evaluate(
        "['body', '.unit.kept', '.text'].map(name => getComputedStyle(document.querySelector(name)))"
        ".map((style, i) => i ? style.color : style.backgroundColor)"
    )
    lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in colours]
    assert (lightness[0] < 0.5) == (look["color_scheme"] == "dark")
    assert abs(lightness[1] - lightness[0]) > abs(lightness[2] - lightness[0])
    shown.says("The sources are at 5 %, the answer is from 25 %")
    # files, question, answer, sources: in this order also where there is one column
    tops = [page.locator(one).bounding_box()["y"] for one in ("#list", "#form", "#answers", "#sources", "#numbers")]
    assert tops[:3] == sorted(tops[:3])
    if look.get("viewport"):
        assert tops == sorted(tops)
    assert shown.wrong == []
    page.close()


@needs_browser
def test_reading_shows_its_progress_and_the_last_move_of_the_slider_counts(browser: Any) -> None:
    class Told(LocalEngine):
        """Tells of its reading, and waits to be let on; the more is to be kept, the sooner it is done."""

        go = threading.Event()

        async def compress(self, documents: Any, query: str, config: Any, listener: Any = None) -> Any:
            if listener is not None:
                listener("ScoredDocuments", 1, 4)
                await in_thread(lambda cancelled: self.go.wait(60))
            elif config.ratio == 0.1:
                await asyncio.sleep(1)
            return await super().compress(documents, query, config, listener)

    own = Told(engine(endless=True).pair)
    with served(own=own) as base:
        shown = Page(browser, base)
        page = shown.page
        shown.add(*FILES)
        playwright.expect(page.locator("#list .state").nth(1)).to_contain_text("tokens")
        page.fill("#question", "How much does tank 3 hold?")
        page.click("#ask")
        shown.says("Reading: 1 of 4")
        assert page.locator("#progress").is_visible()
        assert float(page.locator("#progress").get_attribute("value") or 0) == 0.25
        shown.shot("progress")
        own.go.set()
        shown.says("Done")
        assert page.locator("#progress").is_hidden()
        slide = "value => { const it = document.getElementById('budget'); it.value = value; "
        slide += "it.dispatchEvent(new Event('input')); }"
        with page.expect_request("**/v1/compress"):
            page.evaluate(slide, 10)
        page.evaluate(slide, 100)
        playwright.expect(page.locator(".unit:not(.kept)")).to_have_count(0)
        page.wait_for_timeout(1500)  # the slower one would have come by now
        assert page.locator(".unit:not(.kept)").count() == 0
        shown.says("The sources are at 100 %")
        assert shown.wrong == []
        page.close()


@needs_browser
def test_another_budget_of_long_files_needs_no_other_reading(browser: Any, url: str) -> None:
    shown = Page(browser, url, viewport={"width": 390, "height": 844})
    page = shown.page
    long = " ".join(f"Tank {i} holds {i * 100} litres of water, and pump {i} fills it." for i in range(300))
    shown.add(("a-file-with-a-rather-long-name.txt", long.encode()))
    playwright.expect(page.locator("#list .state")).to_contain_text("tokens")
    assert page.locator("#list .state").bounding_box()["height"] < 30  # one line beside a long name
    assert page.locator("#list button").bounding_box()["x"] < 370
    shown.shot("long-name")
    page.fill("#question", "How much does tank 203 hold?")
    page.click("#ask")
    shown.says("Done")
    playwright.expect(page.locator(".gap").first).to_contain_text("characters not looked at")
    page.focus("#budget")
    for key in ("End", "Home", "ArrowRight"):
        with page.expect_response("**/v1/compress") as answered:
            page.keyboard.press(key)
        assert answered.value.json()["draft_seconds"] == 0.0
    assert shown.wrong == []
    page.close()


@needs_browser
def test_the_page_is_used_with_the_keyboard_alone(browser: Any, url: str) -> None:
    shown = Page(browser, url)
    page = shown.page
    shown.add(*FILES)
    playwright.expect(page.locator("#list .state").nth(1)).to_contain_text("tokens")
    way: list[str] = []
    for _ in range(7):
        page.keyboard.press("Tab")
        way.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
        outline = page.evaluate(
            "getComputedStyle(document.activeElement.id === 'files' ? document.getElementById('drop') : "
            "document.activeElement).outlineStyle"
        )
        assert outline != "none", way
    assert way == ["files", "Remove Tank.md", "Remove Food.md", "question", "budget", "compare", "ask"]
    page.focus("#question")
    page.keyboard.type("How much does tank 3 hold?")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator("#share").inner_text() == "30 %"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.is_checked("#compare")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    shown.says("Done")
    assert all(page.locator(".answer").all_inner_texts())
    page.focus("button[aria-label='Remove Food.md']")
    page.keyboard.press("Enter")
    assert page.locator("#list li").count() == 1
    assert page.evaluate("document.activeElement.id") == "files"
    assert shown.wrong == []
    page.close()


@needs_browser
def test_the_answer_is_shown_as_it_is_written_and_can_be_stopped(browser: Any) -> None:
    own = Endless(engine().pair)
    with served(own=own) as base:
        shown = Page(browser, base)
        shown.add(*FILES)
        playwright.expect(shown.page.locator("#list .state").nth(1)).to_contain_text("tokens")
        shown.page.fill("#question", "How much does tank 3 hold?")
        shown.page.click("#ask")
        answer = shown.page.locator("#kept-answer .answer")
        playwright.expect(answer).to_contain_text("word word word")
        first = len(answer.text_content())
        shown.shot("streaming")
        playwright.expect(answer).to_contain_text("word " * (first // 5 + 10))
        shown.page.keyboard.press("Escape")
        shown.says("Stopped")
        assert shown.page.locator("#ask").is_enabled()
        for _ in range(100):
            if own.closed:
                break
            shown.page.wait_for_timeout(20)
        assert own.closed == 1
        shown.page.close()


@needs_browser
def test_a_key_is_asked_for_and_texts_are_never_markup(browser: Any) -> None:
    with served(settings(api_keys=("right",))) as base:
        shown = Page(browser, base)
        shown.page.wait_for_selector("#key-row:not([hidden])")
        shown.shot("key")
        shown.page.fill("#key", "right")
        shown.page.keyboard.press("Tab")
        playwright.expect(shown.page.locator("#models")).to_have_text("tiny-target")
        evil = "<img src=x onerror=alert(1)>"
        shown.add((f"{evil}.txt".replace("/", ""), (f"{evil} Tank 3 holds water 😀 here. " * 9).encode()))
        playwright.expect(shown.page.locator("#list .state")).to_contain_text("tokens")
        shown.page.fill("#question", f"{evil}?")
        shown.page.click("#ask")
        shown.says("Done")
        assert shown.page.locator("img").count() == 0
        assert "😀 here." in shown.page.locator(".unit").nth(1).inner_text() + shown.page.locator(".text").inner_text()
        assert shown.page.locator(".text").inner_text().count(evil) == 9
        shown.page.close()


def test_the_page_loads_nothing_from_elsewhere(url: str) -> None:
    page = httpx.get(f"{url}/", follow_redirects=True)
    assert page.url.path == "/app/"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        if not name.startswith("data:"):
            assert httpx.get(f"{url}/app/{name}").status_code == 200
    sources = [page.text, *(httpx.get(f"{url}/app/{name}.js").text for name in ("app", "api", "views"))]
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", "".join(sources))
