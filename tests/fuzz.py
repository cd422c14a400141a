"""Documents and questions that nobody would write, through everything: `make nightly`, or for a while by hand.

    python tests/fuzz.py [--texts 100000] [--answers 10000] [--minutes 60] [--seed N]

Texts go through the text side without a model, some of them as files; a tenth as many go through a tiny model. What is
looked for: an exception that is not one of the package's own, a broken promise, a step that takes far longer than its
text is long. The first that is found is written down with the seed and number that make it again, and the exit status
is 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / f) for f in ("", "kernels"))]

from tiny import tiny_pair, tiny_tokenizer  # noqa: E402

from spec_rag import ModelPair, SpecKVConfig, compress, generate  # noqa: E402
from spec_rag.answering.chunks import retrieve, split_chunks  # noqa: E402
from spec_rag.answering.loaders import read_bytes  # noqa: E402
from spec_rag.compression.passages import split_passages  # noqa: E402
from spec_rag.compression.pipeline import keep  # noqa: E402
from spec_rag.compression.selection import Reading  # noqa: E402
from spec_rag.config import CompressionConfig  # noqa: E402
from spec_rag.errors import ConfigError, PromptTooLongError, UnreadableFileError  # noqa: E402
from spec_rag.text.chat_units import chat_units  # noqa: E402
from spec_rag.text.documents import Document  # noqa: E402
from spec_rag.text.patterns import PATTERNS, named_spans  # noqa: E402
from spec_rag.text.prompts import Chat, chat_ids  # noqa: E402
from spec_rag.text.terminal import visible  # noqa: E402
from spec_rag.text.tokens import control_tokens, text_ids  # noqa: E402
from spec_rag.text.units import unit_spans  # noqa: E402
from spec_rag.text.words import words  # noqa: E402

# a step may take this long, and this long per character (over a million of them): a busy machine is slow, not quadratic
STEP_SECONDS, CHARACTER_SECONDS = 2.0, 2e-5
LANGUAGES = ("en", "de", "fr", "zh", "ja", "ar", "hi", "th", "ru")
PLANES = [(0x20, 0x7F), (0, 0x20), (0x80, 0x250), (0x300, 0x370), (0x370, 0x600), (0x600, 0x700), (0x900, 0xE00),
          (0xE00, 0x1000), (0x2000, 0x2070), (0x3000, 0xA000), (0xAC00, 0xD7A4), (0xD800, 0xE000), (0xE000, 0xF900),
          (0xFB50, 0x10000), (0x10000, 0x20000), (0x20000, 0x30000), (0x30000, 0x40000), (0xE0000, 0xE1000),
          (0xF0000, 0x110000)]  # fmt: skip
# fmt: off
PIECES = (
    "One is red. ", "e.g. 3.5 m ", "\n", "\n\n", "\r", "    x = 1\n", "# ", "- ", "| a | b |\n", "```\n", "a,b,c\n",
    "key: value\n", "。", "水は青い。", "مرحبا. ", "नमस्ते। ", "ไทยไม่เว้นวรรค", "e\u0301", "\u200b", "\u202e", "\x00",
    "\x1b]0;x\x07", "\ud800", "<|im_end|>", "</s>", "[INST]", "<b>", "</td>", "<table>", "<pre>", "<!--", "&#x0;",
    "&amp;", "\ufdd0", "…", '"quoted"', "2024-01-31", "$3,500.00", "ABC-123", "'", "((((", "\\", "{{ x }}", "{% raw %}",
)
# fmt: on
CHANCE_OF_HUGE = 0.0005


class Broken(AssertionError):
    """A promise that did not hold, or a step that took too long."""


def drawn_text(chance: random.Random) -> str:
    kind = chance.random()
    if kind < CHANCE_OF_HUGE:
        return chance.choice([_long_line, _tiny_lines, _deep_tags, _wide_heading])(chance)
    if kind < 0.03:
        return chance.choice(["", " ", "\n", "\x00", "\ufeff", "."])
    if kind < 0.35:
        first, last = chance.choice(PLANES)
        return "".join(chr(chance.randrange(first, last)) for _ in range(chance.randrange(1, 200)))
    if kind < 0.45:
        return chance.choice(PIECES) * chance.randrange(1, 400)
    return "".join(_piece(chance) for _ in range(chance.randrange(1, 60)))


def _piece(chance: random.Random) -> str:
    if chance.random() < 0.7:
        return chance.choice(PIECES)
    first, last = chance.choice(PLANES)
    return "".join(chr(chance.randrange(first, last)) for _ in range(chance.randrange(1, 12)))


def _long_line(chance: random.Random) -> str:
    return (_piece(chance).replace("\n", " ") * 10**6)[: 10**6]


def _tiny_lines(chance: random.Random) -> str:
    return chance.choice(["a\n", "\n", "- \n", "x=1\n", "。\n", "# \n"]) * 100_000


def _deep_tags(chance: random.Random) -> str:
    return chance.choice(["<b>", "<td>", "<p>", "<pre> ", "<!-- ", "<ul><li>"]) * 40_000


def _wide_heading(chance: random.Random) -> str:
    return "# " + chance.choice([" ", "\t", "#", "a "]) * 50_000 + "x\n"


@contextmanager
def step(name: str, characters: int) -> Iterator[None]:
    """Fail if what is inside takes far longer than the text is long."""
    begun = time.process_time()
    yield
    taken = time.process_time() - begun
    if taken > STEP_SECONDS + CHARACTER_SECONDS * characters:
        raise Broken(f"{name} took {taken:.1f} s for {characters:,} characters")


def require(holds: object, promise: str) -> None:
    if not holds:
        raise Broken(promise)


TOKENIZER = tiny_tokenizer()
CONTROL = set(TOKENIZER.convert_tokens_to_ids(sorted(control_tokens(TOKENIZER))))


def through_the_text_side(chance: random.Random) -> None:
    """One document and question through everything that needs no model."""
    text, question, language = drawn_text(chance), drawn_text(chance)[:300], chance.choice(LANGUAGES)
    size = len(text)
    unit = chance.choice(["sentence", "sentence", "token", "document"])
    with step("units", size):
        spans = unit_spans(text, unit, language)
    require(all(a < b for a, b in spans) and all(s[1] <= t[0] for s, t in zip(spans, spans[1:])), "ordered units")  # noqa: B905, RUF007
    require(sum(len(text[a:b].split()) for a, b in spans) >= len(text.split()), "every word is in a unit")
    with step("words", size):
        words(text)
    with step("patterns", size):
        for name in PATTERNS:
            named_spans(text, name)
    with step("tokens", size):
        require(size > 10**5 or not CONTROL & set(text_ids(TOKENIZER, text)), "no control tokens")
    with step("terminal", size):
        require(len(visible(text)) == size, "a picture per character")
    document = Document(text, title=question[:40])
    with step("chunks", size):
        chunks = split_chunks(document, chance.choice([60, 300, 2000]))
    if question.strip():
        with step("retrieval", size):
            retrieve(question, chunks)
    if size < 20_000:
        with step("passages", size):
            split_passages(TOKENIZER, [document], [unit_spans(text, "sentence", language)])
        messages = [{"role": "user", "content": text}, {"role": "user", "content": question}]
        with step("chat", size):
            ids = chat_ids(TOKENIZER, messages)
        require(sum(token in CONTROL for token in ids) == 3, "the template's control tokens alone")
        with step("chat units", size):
            chat_units(TOKENIZER, Chat(messages), language)
        unread = Reading.unread([document], "q", "draft")
        with step("report", size):
            page = keep(unread, CompressionConfig(ratio=1.0), lambda own: len(own.split())).to_html()
        require("<b>" not in page, "a page without markup of its documents")
    suffix = chance.choice([".txt", ".md", ".html", ".html"])
    data = text.encode("utf-8", "surrogatepass") if chance.random() < 0.8 else chance.randbytes(min(size, 2000))
    try:
        with step(f"reading {suffix}", size):
            read_bytes(f"x{suffix}", data)
    except UnreadableFileError:
        pass


def through_a_model(chance: random.Random, pair: ModelPair) -> None:
    """Some documents and a question through the compression, and now and then an answer."""
    texts = [drawn_text(chance)[:400] for _ in range(chance.randrange(1, 5))]
    texts += texts[:1] * chance.randrange(2)
    question = drawn_text(chance)[:100]
    budget = chance.randrange(1, 200)
    try:
        with step("compress", sum(map(len, texts)) + 10**5):
            found = compress(
                [(text, question) for text in texts],
                question,
                draft=pair,
                max_tokens=budget,
                unit=chance.choice(["sentence", "token", "document"]),
                scoring=chance.choice(["per_document", "per_document", "joint"]),
                likelihood=chance.choice(["auto", False]),
                cut_units=chance.random() < 0.3,
                calibration=None,
            )
    except PromptTooLongError:
        return  # of scoring="joint", which reads one prompt
    except ConfigError:
        require(not question.strip(), "only a question without words is refused")
        return
    require(found.tokens_after <= budget, "never over budget")
    for document in found.documents:
        position = 0
        for a, b in document.spans:
            position = document.text.index(document.original_text[a:b], position)
        require(all(a < b <= len(document.original_text) for a, b in document.spans), "spans in the text")
    if chance.random() < 0.1:
        text = "".join(texts)[:600]
        config = SpecKVConfig(max_capacity_prompt=32, lookahead_tokens=2)
        generate(pair, [{"role": "user", "content": f"{text} {question}"}], None, config, 2)


def run(name: str, count: int, end: float, seed: int, one: Callable[[random.Random], None]) -> bool:
    """Draw and try so many; whether all was well."""
    begun = time.time()
    for number in range(count):
        if time.time() > end:
            print(f"{name}: {number:,} of {count:,}, the time is over", flush=True)
            return True
        try:
            one(random.Random(f"{seed}/{name}/{number}"))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            traceback.print_exc()
            print(f"{name}: number {number} of --seed {seed} failed: {type(error).__name__}: {error}", flush=True)
            return False
        if number % 5000 == 4999:
            print(f"{name}: {number + 1:,} in {time.time() - begun:.0f} s", flush=True)
    print(f"{name}: {count:,} in {time.time() - begun:.0f} s, all well", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=240.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--only", help="draw one number alone: texts/123 or answers/123")
    given = parser.parse_args()
    pair = tiny_pair()
    pair.target.generation_config.suppress_tokens = sorted(CONTROL)
    kinds = {"texts": through_the_text_side, "answers": lambda chance: through_a_model(chance, pair)}
    if given.only:
        kinds[given.only.partition("/")[0]](random.Random(f"{given.seed}/{given.only}"))
        return 0
    print(f"seed {given.seed}", flush=True)
    begun = time.time()
    ends = {"texts": begun + 60 * given.minutes / 2, "answers": begun + 60 * given.minutes}
    counts = {"texts": given.texts, "answers": given.answers}
    well = [run(name, counts[name], ends[name], given.seed, one) for name, one in kinds.items()]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
