"""Documents and questions that nobody would write, through everything: `make nightly`, or for a while by hand.

    python tests/fuzz.py [--texts 100000] [--answers 10000] [--minutes 60] [--seed N]

Texts go through the text side without a model, some of them as files; a tenth as many go through tiny models, some
with sliding windows, a soft cap or sinks. What is looked for: an exception that is not one of the package's own, a
broken promise, a step that takes far longer than its text is long. The first that is found is written down with the
seed and number that make it again, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / f) for f in ("", "kernels"))]

from tiny import tiny_pair, tiny_tokenizer  # noqa: E402

from spec_rag import ContextCache, ModelPair, SpecKVConfig, SpecPCConfig, compress, generate_batch  # noqa: E402
from spec_rag.answering.chunking import retrieve, split_chunks  # noqa: E402
from spec_rag.compression.compress import keep  # noqa: E402
from spec_rag.compression.packing import ScoredDocuments  # noqa: E402
from spec_rag.compression.passages import split_passages  # noqa: E402
from spec_rag.errors import (  # noqa: E402
    BudgetTooSmallError,
    ConfigError,
    PromptTooLongError,
    UnreadableFileError,
    UnsupportedModelError,
)
from spec_rag.loaders.reading import read_bytes  # noqa: E402
from spec_rag.options.compression import CompressionConfig  # noqa: E402
from spec_rag.text.chat_units import chat_units  # noqa: E402
from spec_rag.text.documents import Document  # noqa: E402
from spec_rag.text.patterns import PATTERNS, named_spans  # noqa: E402
from spec_rag.text.prompts import Chat, chat_ids  # noqa: E402
from spec_rag.text.tokenization import control_tokens, text_ids  # noqa: E402
from spec_rag.text.units import unit_spans  # noqa: E402
from spec_rag.text.words import words  # noqa: E402
from spec_rag.utils.terminal import visible  # noqa: E402

# a step may take this long, and this long per character (over a million of them): a busy machine is slow, not quadratic
STEP_SECONDS, CHARACTER_SECONDS = 2.0, 2e-5
# what a tiny model may take beside its text: eager attention over a prompt of 3,500 tokens takes 4 s by itself
MODEL_CHARACTERS = 300_000
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
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma3_text": {"sliding_window": 48},
    "gemma2": {"sliding_window": 48, "attn_logit_softcapping": 7.5},
    "gpt_oss": {"sliding_window": 48, "num_local_experts": 2, "num_experts_per_tok": 1, "attn_implementation": "eager"},
}
JOINTLY = {"gemma2", "gpt_oss"}  # drafts with a soft cap or sinks cannot read documents side by side
HOLDING = {"keep", "keep_first", "document_min_tokens"}  # settings that hold units, which have to fit


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
        unread = ScoredDocuments.unread([document], "q", "draft")
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


def through_a_model(chance: random.Random, pairs: Sequence[ModelPair]) -> None:
    """Some documents and a question through the compression, and now and then an answer."""
    pair = chance.choice([pairs[0], pairs[0], *pairs])
    longest = chance.choice([60, 150, 150, 400])
    texts = [drawn_text(chance)[:longest] for _ in range(chance.randrange(1, 5))]
    texts += texts[:1] * chance.randrange(2)
    question = drawn_text(chance)[:100]
    _compressed(chance, pair, texts, question)
    if chance.random() < 0.2:
        _answered(chance, pair, "".join(texts)[:600], question)


def _compressed(chance: random.Random, pair: ModelPair, texts: list[str], question: str) -> None:
    settings = drawn_settings(chance)
    documents = [(text, question) for text in texts]
    try:
        with step("compress", sum(map(len, texts)) + MODEL_CHARACTERS):
            found = compress(documents, question, draft=pair, **settings)
    except PromptTooLongError:
        require(settings["scoring"] == "joint", "only one prompt of all documents can be too long")
        return
    except BudgetTooSmallError:
        require(HOLDING & settings.keys(), "only what is held has to fit")
        return
    except UnsupportedModelError:
        require(pair.draft_name in JOINTLY and settings["scoring"] != "joint", "only what reads documents jointly")
        return
    except ConfigError:
        require(not question.strip(), "only a question without words is refused")
        return
    require(found.tokens_after <= found.budget_tokens, "never over budget")
    require("max_tokens" not in settings or found.tokens_after <= settings["max_tokens"], "never over what was asked")
    for document in found.documents:
        size, position = len(document.original_text), 0
        require(all(0 <= a < b <= size for a, b in document.spans), "spans in the text")
        require(all(one[1] < other[0] for one, other in pairwise(document.spans)), "spans in order and apart")
        for a, b in document.spans:
            position = document.text.index(document.original_text[a:b], position) + b - a
    if chance.random() < 0.1:
        again = compress(documents, question, draft=pair, **settings)
        require([one.spans for one in again.documents] == [one.spans for one in found.documents], "the same again")


def drawn_settings(chance: random.Random) -> dict[str, Any]:
    """Of the compression: a size, the scoring, and now and then a promise that holds beside it."""
    size = chance.choice([{"max_tokens": chance.randrange(1, 200)}] * 3 + [{"ratio": 0.3}, {"coverage": 0.5}, {}])
    held = chance.choice([{}] * 4 + [{"keep_first": 1}, {"keep": r"\d"}, {"document_min_tokens": 5}, {"threshold": 0.5},
                         {"context_before": 1, "context_after": 2}, {"document_max_tokens": 30},
                         {"order": "relevance"}, {"ellipsis": " … "}, {"min_tokens": 1}])  # fmt: skip
    return {
        **size,
        **held,
        "unit": chance.choice(["sentence", "token", "document"]),
        "scoring": chance.choice(["per_document", "per_document", "joint"]),
        "cascade": chance.choice(["auto", "auto", "always", "never"]),
        "cut_units": chance.random() < 0.3,
        "language": chance.choice(LANGUAGES),
        "calibration": chance.choice(["shipped", None]),
    }


def _answered(chance: random.Random, pair: ModelPair, text: str, question: str) -> None:
    """One to three answers from a pruned prompt, a pruned cache, both, or a context that is read once."""
    count, capacity = chance.randrange(1, 4), chance.choice([8, 32, 100])
    drawn = {"temperature": 1.0, "seed": 1} if chance.random() < 0.3 else {}
    if chance.random() < 0.3:
        if not text.strip():
            return  # refused
        context = ContextCache.read(pair, text, keep=chance.choice([0.1, 0.5, 1.0]))
        require(context.nbytes > 0, "a context that is kept")
        answers = generate_batch(pair, [question or "?"] * count, None, None, 3, context=context, **drawn)
    else:
        parts = (chance.randrange(1, 400) for _ in range(count))
        prompts = [[{"role": "user", "content": f"{text[:part]} {question}"}] for part in parts]
        speckv = SpecKVConfig(
            max_capacity_prompt=chance.choice([capacity, capacity, None]),
            lookahead=chance.choice(["draft", "none", "target", "copies"]),
            lookahead_tokens=2,
            prefill_window_size=chance.choice([20, 2048]),
            prefill_vertical_size=chance.choice([20, 2048]),
            preset="scaled",
        )
        specpc = SpecPCConfig(60, window_size=8, kernel_size=4, starting_layer_index=1, unit="token")
        given = chance.choice([(None, speckv), (None, speckv), (specpc, None), (specpc, speckv), (None, None)])
        with step("answers", MODEL_CHARACTERS):
            answers = generate_batch(pair, prompts, *given, 3, **drawn)
        for answer in answers:
            require(answer.target_prompt_tokens <= answer.prompt_tokens, "no more than the prompt")
            heads = [head for layer in answer.kept_positions for head in layer]
            require(all(0 <= p < answer.target_prompt_tokens for head in heads for p in head), "pairs of the prompt")
            require(all(a < b for head in heads for a, b in pairwise(head)), "pairs in order")
            require(answer.kv_bytes_kept <= answer.kv_bytes_dense, "no more than all pairs")
    require(len(answers) == count, "an answer for each")
    require(all(0 < answer.completion_tokens <= 3 for answer in answers), "as long as was asked")


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
        if number % 500 == 499:
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
    pairs = [tiny_pair(kind, **traits) for kind, traits in FAMILIES.items()]
    for pair, kind in zip(pairs, FAMILIES, strict=True):
        pair.draft_name = kind
        pair.require_target().generation_config.suppress_tokens = sorted(CONTROL)
    kinds = {"texts": through_the_text_side, "answers": lambda chance: through_a_model(chance, pairs)}
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
