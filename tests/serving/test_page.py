"""The page in a real browser: files, question, answer, evidence, sources, budget, history, encodings, colours."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving.helpers import FACTS, engine, served, settings

from spec_rag.report import Compression
from spec_rag.results import Answer, CompressedDocument, KeptUnit
from spec_rag.serving.engine import GenerationRequest, LocalEngine
from spec_rag.utils.cancellation import in_thread

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright.expect.set_options(timeout=30_000)
SHOTS = os.environ.get("SPEC_RAG_SCREENSHOTS")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no chromium on the path")
expect = playwright.expect
QUESTION = "How much does tank 3 hold?"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


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


class Scripted(LocalEngine):
    """Reads with tiny models; answers with `reply`, of which a request gets as many words as it has tokens."""

    reply = "Tank 3 holds 300 litres of water."
    closed = 0

    async def stream(self, ask: GenerationRequest) -> AsyncGenerator[str | Answer, None]:
        words = re.findall(r"\S+\s*", self.reply)
        shown = words[: ask.max_new_tokens]
        try:
            for word in shown:
                yield word
                await asyncio.sleep(0)
        finally:
            self.closed += 1
        reason: Any = "length" if len(shown) < len(words) else "stop"
        yield Answer("".join(shown), [], 1, 1, len(shown), reason)


def scripted(reply: str) -> Scripted:
    own = Scripted(engine().pair)
    own.reply = reply
    return own


@pytest.fixture(scope="module")
def answering() -> Iterator[str]:
    with served(own=scripted(Scripted.reply)) as base:
        yield base


class Page:
    """A page in a browser profile of its own, with what its console said."""

    def __init__(self, browser: Any, url: str, path: str = "/app/", **look: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **look}
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.wrong: list[str] = []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.wrong.append(said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(f"{url}{path}")

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.context.close()

    def shot(self, name: str) -> None:
        if SHOTS:
            self.page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)

    def add(self, *files: tuple[str, bytes]) -> None:
        self.page.set_input_files(
            "#files", [{"name": name, "mimeType": "text/plain", "buffer": data} for name, data in files]
        )
        expect(self.page.locator("#list .state", has_text="reading …")).to_have_count(0)

    def ask(self, question: str = QUESTION) -> None:
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")
        self.says("Done")

    def says(self, text: str) -> None:
        expect(self.page.locator("#status")).to_have_text(re.compile(text))

    def texts(self, selector: str) -> list[str]:
        return [str(text) for text in self.page.locator(selector).all_inner_texts()]

    def kept(self) -> int:
        return int(self.page.locator(".unit.kept").count())


FILES = [(f"{title}.md", f"# {title}\n\n{text}\n".encode()) for title, text in FACTS]
LONG = " ".join(f"Tank {i} holds {i * 100} litres of water, and pump {i} fills it." for i in range(300))
CONTRASTS = """() => {
  const parse = (colour) => { const n = colour.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if ((!own && node.tagName !== "TEXTAREA") || !node.getClientRects().length) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.tagName + "." + node.className]);
  }
  return found;
}"""


@needs_browser
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_the_whole_way(browser: Any, answering: str, look: dict[str, Any], request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    with Page(browser, answering, **look) as shown:
        page = shown.page
        expect(page.locator("#model")).to_have_value("tiny-target")
        assert page.locator("header").get_by_text("see the sentences that the answer comes from").is_visible()
        assert page.locator("#welcome").is_visible()
        shown.shot(f"{name}-empty")
        page.click("#ask")
        shown.says("Add a file first")
        shown.add(*FILES, ("broken.pdf", b"no pdf"))
        expect(page.locator("#list li.wrong")).to_contain_text("broken.pdf is not a readable PDF")
        page.click("#ask")
        shown.says("Write a question first")
        page.check("#compare")
        shown.ask()
        assert page.locator("#kept-answer .answer").inner_text().startswith("Tank 3 holds 300 litres of water.")
        assert page.locator("#compared-answer h2").inner_text() == "From the whole texts"
        assert page.locator("#compared-answer .answer").inner_text() == Scripted.reply
        box = page.locator("#kept-answer .answer").bounding_box()  # without scrolling by hand
        assert 0 <= box["y"] < look.get("viewport", {"height": 900})["height"] - 50
        shown.shot(f"{name}-asked")
        numbers = dict(zip(shown.texts("#numbers dt"), shown.texts("#numbers dd"), strict=True))
        tokens = {
            key: int(re.sub(r"\D", "", value.split("tokens")[0])) for key, value in numbers.items() if "tok" in value
        }
        assert tokens["In your files"] >= tokens["Retrieved"] > 3 * tokens["Kept"]
        assert "of the retrieved" in numbers["Kept"]
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        ratios = page.evaluate(CONTRASTS)
        assert len(ratios) > 40
        assert [found for found in ratios if found[0] < 4.5] == []
        # kept text differs from its surroundings by a mark, dropped text by its colour alone
        marks = page.evaluate(
            "['.kept', '.dropped'].map((kind) => document.querySelector('#sources ' + kind))"
            ".map((node) => getComputedStyle(node).backgroundColor)"
        )
        assert marks[0] != marks[1] == "rgba(0, 0, 0, 0)"
        assert shown.wrong == []


@needs_browser
def test_the_sentence_behind_the_answer_is_one_click_away(browser: Any, answering: str) -> None:
    with Page(browser, answering) as shown:
        page = shown.page
        shown.add(*FILES)
        page.evaluate("document.getElementById('budget').value = 50")
        shown.ask()
        support = page.locator("#evidence button", has_text="shares its words with the answer")
        assert "Tank 3 holds 300 litres of water." in support.inner_text()
        assert "Tank.md" in support.inner_text()
        page.click("#kept-answer .cite")
        assert page.evaluate("document.activeElement.textContent") == "Tank 3 holds 300 litres of water."
        assert page.evaluate("document.activeElement.className") == "unit kept"
        detail = page.locator(".source", has=page.locator(":focus")).locator(".detail")
        assert re.search(r"Importance \d+ of \d+ \(.+\) · \d+ tokens · kept for its importance", detail.inner_text())
        page.keyboard.press("ArrowRight")
        assert "Tank 4" in page.evaluate("document.activeElement.textContent")
        page.locator(".unit.kept").last.click()  # a touch
        assert "tokens · kept" in page.locator(".source", has=page.locator(":focus")).locator(".detail").inner_text()
        expect(page.locator("#map .found").first).to_be_visible()
        assert "Text was kept at" in page.locator("#map [role=img]").first.get_attribute("aria-label")
        page.evaluate(
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (t) => (window.copied = t)}})"
        )
        page.click("#kept-answer .copy")
        shown.says("Copied")
        assert "Tank.md" in page.evaluate("window.copied")


@needs_browser
def test_an_answer_without_support_says_so(browser: Any) -> None:
    with served(own=scripted("Elephants migrate.")) as base, Page(browser, base) as shown:
        shown.add(*FILES)
        shown.ask()
        assert shown.page.locator("#unsupported").is_visible()
        assert shown.page.locator(".cite").count() == 0
        assert shown.page.locator("#evidence li").count() == 3


@needs_browser
def test_structure_has_a_shade_of_its_own_and_cut_units_show_what_was_kept(browser: Any, answering: str) -> None:
    text = "Prices\nA canoe costs 9 euros. And so on and on.\nTents are free."
    units = [
        {"start": 0, "end": 6, "importance": 0.1, "tokens": 1, "kept": True, "reason": "structure"},
        {"start": 7, "end": 29, "importance": 2.0, "tokens": 6, "kept": True, "reason": "score"},
        {"start": 30, "end": 47, "importance": 1.0, "tokens": 5, "kept": True, "reason": "cut"},
        {"start": 48, "end": 63, "importance": -1.0, "tokens": 4, "kept": False, "reason": None},
    ]
    passage = {
        "document": 0,
        "start": 0,
        "end": 63,
        "spans": [[0, 29], [30, 36]],
        "tokens_before": 16,
        "tokens_after": 9,
    }
    body = {
        "draft_seconds": 1.0,
        "tokens_before": 16,
        "tokens_after": 9,
        "messages": [{"role": "user", "content": "x"}],
    }
    body |= {"object": "compression", "documents": [{**passage, "units": units}]}
    stream = f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n"
    with Page(browser, answering) as shown:
        page = shown.page
        page.route("**/v1/compress", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
        shown.add(("prices.txt", text.encode()))
        shown.ask("What does a canoe cost?")
        assert shown.texts(".unit.structure") == ["Prices"]
        assert shown.texts(".unit.kept") == ["A canoe costs 9 euros.", "And so on and on."]
        assert shown.texts(".unit.kept .dropped") == [" on and on."]
        assert shown.texts(".unit.dropped") == ["Tents are free."]
        assert "Prices" in shown.texts("#evidence small")
        assert "9 euros" in shown.texts("#evidence q")[0]


@needs_browser
def test_sources_come_in_order_of_worth_and_fold_what_was_not_looked_at(browser: Any, answering: str) -> None:
    with Page(browser, answering, **LOOKS["phone"]) as shown:
        page = shown.page
        shown.add(("a-file-with-a-rather-long-name.txt", LONG.encode()))
        shown.ask("How much does tank 203 hold?")
        bars = (
            "all => all.map(card => Math.max(0, ...[...card.querySelectorAll('.unit.kept')].map("
            "unit => Number(unit.style.getPropertyValue('--weight')))))"
        )
        worths = page.eval_on_selector_all("#sources > .source", bars)
        assert worths == sorted(worths, reverse=True)
        assert worths[0] > 0.99
        fold = page.locator(".fold summary", has_text="characters not looked at").first
        hidden = int(re.sub(r"\D", "", fold.inner_text().split("characters")[0].split(",", 1)[-1]))
        fold.click()
        unfolded = page.locator(".fold[open]").first.inner_text()
        assert len(unfolded) > hidden
        assert page.locator("#list .state").bounding_box()["height"] < 30  # one line next to a long name
        page.focus("#budget")
        for key in ("End", "Home", "ArrowRight"):
            with page.expect_response("**/v1/compress") as answered:
                page.keyboard.press(key)
            assert answered.value.json()["draft_seconds"] == 0.0
            sent = answered.value.request.post_data  # the text was uploaded once
            assert len(sent) < 500
        assert shown.wrong == []


@needs_browser
def test_reading_shows_its_progress_and_the_last_move_of_the_slider_counts(browser: Any) -> None:
    class Waiting(Scripted):
        """Reports its reading, and waits; the more is to be kept, the sooner it is done."""

        go = threading.Event()

        async def compress(self, documents: Any, query: str, config: Any, listener: Any = None) -> Any:
            if listener is not None:
                listener("Reading", 1, 4)
                await in_thread(lambda cancelled: self.go.wait(60))
            elif config.ratio == 0.1:
                await asyncio.sleep(0.6)
            return await super().compress(documents, query, config, listener)

    own = Waiting(engine().pair)
    with served(own=own) as base, Page(browser, base) as shown:
        page = shown.page
        shown.add(*FILES)
        page.fill("#question", QUESTION)
        page.click("#ask")
        shown.says("Reading: 1 of 4")
        assert float(page.locator("#progress").get_attribute("value") or 0) == 0.25
        own.go.set()
        shown.says("Done")
        assert page.locator("#progress").is_hidden()
        slide = "value => { const it = document.getElementById('budget'); it.value = value; "
        slide += "it.dispatchEvent(new Event('input')); }"
        with page.expect_request("**/v1/compress"):
            page.evaluate(slide, 10)
        page.evaluate(slide, 100)
        expect(page.locator(".unit:not(.kept)")).to_have_count(0)
        page.wait_for_timeout(900)  # the slower one would have come by now
        assert page.locator(".unit:not(.kept)").count() == 0
        shown.says("The sources are at 100 %, the answer is from 25 %")
        assert shown.wrong == []


@needs_browser
def test_the_page_is_used_with_the_keyboard_alone(browser: Any, answering: str) -> None:
    with Page(browser, answering) as shown:
        page = shown.page
        shown.add(*FILES)
        way: list[str] = []
        for _ in range(7):
            page.keyboard.press("Tab")
            way.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
            outline = page.evaluate(
                "getComputedStyle(document.activeElement.id === 'files' ? document.getElementById('drop') : "
                "document.activeElement).outlineStyle"
            )
            assert outline != "none", way
        assert way == ["files", "Remove Tank.md", "Remove Food.md", "question", "ask", "budget", "compare"]
        page.focus("#question")
        page.keyboard.type(QUESTION)
        for key in ("Tab", "Tab", "ArrowRight", "Tab", "Space"):
            page.keyboard.press(key)
        assert page.locator("#share").inner_text() == "30 %"
        assert page.is_checked("#compare")
        page.focus("#ask")
        page.keyboard.press("Enter")
        shown.says("Done")
        page.focus("#evidence button")
        page.keyboard.press("Enter")
        assert "unit kept" in page.evaluate("document.activeElement.className")
        page.focus("button[aria-label='Remove Food.md']")
        page.keyboard.press("Enter")
        assert page.locator("#list li").count() == 1
        assert page.evaluate("document.activeElement.id") == "files"
        assert shown.wrong == []


@needs_browser
def test_the_answer_is_shown_as_it_is_written_and_can_be_stopped(browser: Any) -> None:
    class Endless(Scripted):
        async def stream(self, ask: GenerationRequest) -> AsyncGenerator[str | Answer, None]:
            try:
                for i in range(10**6):
                    yield f"word {i} "
                    await asyncio.sleep(0.01)
            finally:
                self.closed += 1

    own = Endless(engine().pair)
    with served(own=own) as base, Page(browser, base) as shown:
        shown.add(*FILES)
        shown.page.fill("#question", QUESTION)
        shown.page.click("#ask")
        answer = shown.page.locator("#kept-answer .answer")
        expect(answer).to_contain_text("word 3 ")
        expect(answer).to_contain_text("word 30 ")
        shown.page.keyboard.press("Escape")
        shown.says("Stopped")
        expect(shown.page.locator("#kept-answer .cut")).to_contain_text("was stopped")
        expect(answer).to_contain_text("word 30 ")
        assert shown.page.locator("#ask").is_enabled()
        for _ in range(100):
            if own.closed:
                break
            shown.page.wait_for_timeout(20)
        assert own.closed == 1


@needs_browser
def test_an_answer_that_was_cut_goes_on_and_one_that_repeats_itself_is_ended(browser: Any) -> None:
    long = " ".join(f"Tank {i} holds {i * 100} litres." for i in range(40))
    with served(own=scripted(long)) as base, Page(browser, base) as shown:
        shown.add(*FILES)
        shown.ask()
        cut = shown.page.locator("#kept-answer .cut")
        expect(cut).to_contain_text("cut after 120 tokens")
        cut.get_by_role("button").click()
        expect(shown.page.locator("#kept-answer .answer")).to_contain_text("Tank 39 holds 3900 litres.")
        expect(cut).to_be_hidden()
    own = scripted("Tank 3 is blue. " + "The pump fills the tank. " * 30)
    with served(own=own) as base, Page(browser, base) as shown:
        shown.add(*FILES)
        shown.ask()
        expect(shown.page.locator("#kept-answer .cut")).to_contain_text("began to repeat itself")
        assert shown.page.locator("#kept-answer .answer").inner_text().count("The pump fills") == 1


@needs_browser
def test_files_and_questions_survive_reload_back_and_a_server_that_forgot_them(browser: Any, answering: str) -> None:
    with Page(browser, answering) as shown:
        page = shown.page
        shown.add(*FILES)
        shown.ask()
        first = page.locator("#sources").inner_text()
        shown.ask("When is soup 7 served?")
        page.reload()
        expect(page.locator("#list .name")).to_have_text(["Tank.md", "Food.md"])
        expect(page.locator("#question")).to_have_value("When is soup 7 served?")
        expect(page.locator("#kept-answer .answer")).to_contain_text("300 litres")
        page.go_back()
        expect(page.locator("#question")).to_have_value(QUESTION)
        assert page.locator("#sources").inner_text() == first
        expect(page.locator("#history button")).to_have_count(2)
        page.locator("#history button").first.click()
        expect(page.locator("#question")).to_have_value("When is soup 7 served?")
        with served(own=scripted(Scripted.reply)) as other:  # which never saw the files
            page.route("**/v1/*", lambda route: route.continue_(url=re.sub(r"http://[^/]+", other, route.request.url)))
            shown.ask("How much does tank 5 hold?")
            assert "404" in " ".join(shown.wrong)
            assert page.locator("#history button").count() == 3
            page.click("#clear")
            expect(page.locator("#history-section")).to_be_hidden()
            page.reload()
            expect(page.locator("#list .name")).to_have_text(["Tank.md", "Food.md"])
            expect(page.locator("#answers")).to_be_hidden()


@needs_browser
def test_files_are_dropped_anywhere_and_too_large_ones_are_not_sent(browser: Any) -> None:
    with served(settings(max_body_bytes=20_000), own=scripted("Yes.")) as base, Page(browser, base) as shown:
        page = shown.page
        expect(page.locator("#model")).to_have_value("tiny-target")
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url))
        page.evaluate(
            """() => {
              const data = new DataTransfer();
              data.items.add(new File(["Tank 3 holds 300 litres."], "small.txt"));
              data.items.add(new File(["x".repeat(30000)], "large.txt"));
              const fire = (name) => document.querySelector("header").dispatchEvent(
                new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true }));
              fire("dragover"); window.over = !document.getElementById("dropping").hidden; fire("drop");
            }"""
        )
        assert page.evaluate("window.over")
        expect(page.locator("#list li", has_text="small.txt")).to_contain_text("tokens")
        expect(page.locator("#list li.wrong")).to_contain_text("29 KiB: too large, this server takes 16 KiB")
        assert sum(url.endswith("/v1/read") for url in sent) == 1


@needs_browser
def test_texts_that_are_not_utf_8_are_read_in_an_encoding_that_can_be_changed(browser: Any, answering: str) -> None:
    texts = {
        "windows-1252": "Die Gebühr für Kajaks beträgt 9 €, für Zelte übrigens 5 €.",
        "windows-1251": "Плата за каяк составляет девять евро, а палатка стоит пять евро.",
        "shift_jis": "カヤックの料金は九ユーロで、テントは五ユーロです。",
        "euc-kr": "카약 요금은 구 유로이고 텐트는 오 유로입니다.",
        "gb18030": "皮划艇的费用是九欧元，帐篷是五欧元。请在前台付款。",
        "utf-16le": "The fee for kayaks is 9 euros, for tents it is 5 euros.",
    }
    with Page(browser, answering) as shown:
        page = shown.page
        shown.add(*((f"{name}.txt", text.encode(name)) for name, text in texts.items()))
        read = page.locator("#list .encoding select")
        assert read.evaluate_all("all => all.map((one) => one.value)") == list(texts)
        assert "Gebühr" in page.locator("#list .preview").first.inner_text()
        read.first.select_option("windows-1251")
        expect(page.locator("#list .preview").first).to_contain_text("Gebьhr")
        shown.add(("binary.txt", bytes(range(256)) * 9))
        expect(page.locator("#list li.wrong")).to_contain_text("binary")


@needs_browser
def test_a_key_is_asked_for_and_texts_are_never_markup(browser: Any) -> None:
    with served(settings(api_keys=("right",)), own=scripted("Yes.")) as base, Page(browser, base) as shown:
        shown.page.wait_for_selector("#key-row:not([hidden])")
        shown.page.fill("#key", "right")
        shown.page.keyboard.press("Tab")
        expect(shown.page.locator("#model")).to_have_value("tiny-target")
        evil = "<img src=x onerror=alert(1)>"
        shown.add((f"{evil}.txt".replace("/", ""), (f"{evil} Tank 3 holds water 😀 here. " * 30).encode()))
        shown.ask(f"{evil}?")
        assert shown.page.locator("img").count() == 0
        assert shown.page.locator("#sources").inner_text().count(evil) > 3
        assert "😀 here." in shown.page.locator("#sources").inner_text()


@needs_browser
def test_samples_are_two_clicks_and_a_model_is_chosen(browser: Any, answering: str) -> None:
    with Page(browser, answering) as shown:
        page = shown.page
        listed = {"data": [{"id": "owner/first"}, {"id": "tiny-target"}]}
        page.route("**/v1/models", lambda route: route.fulfill(json=listed))
        page.reload()
        expect(page.locator("#model option")).to_have_text(["first", "tiny-target"])
        page.select_option("#model", "tiny-target")
        page.reload()
        expect(page.locator("#model")).to_have_value("tiny-target")
        page.click("#samples")
        page.locator("#sample-questions button").first.click()
        shown.says("Done")
        assert page.locator("#list li").count() == 3
        assert shown.kept() > 0
        assert page.locator("#samples").is_hidden()
        page.goto(f"{answering}/app/?model=from-the-command-line")
        expect(page.locator("#model")).to_have_value("from-the-command-line")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_html_report_can_be_read(browser: Any, scheme: str) -> None:
    units = [KeptUnit(0, 6, 0.1, 1, True, "structure"), KeptUnit(7, 29, 2.0, 6, True, "score")]
    units += [KeptUnit(30, 45, 1.0, 5, False), KeptUnit(46, 59, 0.5, 5, True, "keep")]
    text = "Prices\nA canoe costs 9 euros. Tents are free. Call 555 now."
    left = CompressedDocument("", [(0, 29), (46, 59)], None, "Prices", text, 17, 12, units)
    page = browser.new_page(color_scheme=scheme)
    page.set_content(Compression([left], "What does a canoe cost?", 12, "draft", 1.0).to_html())
    assert [found for found in page.evaluate(CONTRASTS) if found[0] < 4.5] == []
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "A canoe costs 9 euros."
    shown = page.evaluate("getComputedStyle(document.activeElement, '::after').content")
    assert "importance 2" in shown
    page.close()


@needs_browser
def test_line_breaks_inside_a_sentence_of_a_pdf_are_joined_and_keep_every_place(browser: Any, answering: str) -> None:
    with Page(browser, answering) as shown:
        call = "async ([name, text]) => (await import('/app/text.js')).joinedLines(name, text)"
        text = "The deposit for a boat of the rental is paid\nback when the boat\n• is clean\n• is whole\nFoo 1\nbar 2"
        joined = shown.page.evaluate(call, ["a.pdf", text])
        assert joined == text.replace("paid\nback", "paid back")
        assert shown.page.evaluate(call, ["a.txt", text]) == text


def test_the_page_loads_nothing_from_elsewhere(url: str) -> None:
    page = httpx.get(f"{url}/", follow_redirects=True)
    assert page.url.path == "/app/"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        if not name.startswith("data:"):
            assert httpx.get(f"{url}/app/{name}").status_code == 200
    scripts = ("app", "api", "views", "sources", "store", "text", "elements")
    sources = [page.text, *(httpx.get(f"{url}/app/{name}.js").text for name in scripts)]
    assert not re.findall(r"https?://", "".join(sources))
