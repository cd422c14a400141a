"""Contexts with facts among other sentences, and questions on each: does a context that was cut once still answer them?

Generated, deterministic by seed. The metric is the share of questions whose number stands in the answer. The generator
does not know models; `contexts_answered` does.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.magic_numbers import CITIES, plain_sentence
from spec_rag.evaluation.kept import interval
from spec_rag.generation.context_cache import ContextCache
from spec_rag.generation.generate import generate, generate_batch
from spec_rag.models.model_pair import ModelPair
from spec_rag.utils.progress import steps

QUESTIONS = 4
_PLACES = ("library", "museum", "station", "theatre", "market", "harbour", "school", "hospital", "stadium", "airport")


@dataclass(frozen=True)
class Context:
    """A text, and questions with the numbers that answer them."""

    text: str
    questions: list[tuple[str, str]]


def contexts(count: int, sentences: int = 60, facts: int = 4, seed: int = 0) -> list[Context]:
    """`count` texts of plain sentences and "The access code of the Lisbon library is N.", shuffled."""
    chance = random.Random(seed)
    return [_context(chance, sentences, facts) for _ in range(count)]


def _context(chance: random.Random, sentences: int, facts: int) -> Context:
    places = chance.sample([f"{city} {place}" for city in CITIES for place in _PLACES], facts)
    codes = dict(zip(places, (str(n) for n in chance.sample(range(1000, 10_000), facts)), strict=True))
    lines = [plain_sentence(chance) for _ in range(sentences - facts)]
    lines += [f"The access code of the {place} is {code}." for place, code in codes.items()]
    chance.shuffle(lines)
    asked = chance.sample(places, QUESTIONS)
    return Context(" ".join(lines), [(f"What is the access code of the {place}?", codes[place]) for place in asked])


def contexts_answered(
    pair: ModelPair, cases: Sequence[Context], keeps: Sequence[float] = (0.5, 0.25, 0.125), max_new_tokens: int = 24
) -> dict[str, list[float]]:
    """Per share of the pairs that is kept, and for "dense", the share of each context's questions answered right."""
    names = ["dense", *(f"{keep:.3g} of the pairs" for keep in keeps)]
    hits: dict[str, list[float]] = {name: [] for name in names}
    with steps("Answering", len(cases) * (1 + len(keeps))) as done:
        for case in cases:
            for name, keep in zip(hits, (1.0, *keeps), strict=True):
                context = ContextCache.read(pair, case.text, keep=keep)
                asked = [question for question, _ in case.questions]
                answers = generate_batch(pair, asked, context=context, max_new_tokens=max_new_tokens)
                right = [code in a.text for a, (_, code) in zip(answers, case.questions, strict=True)]
                hits[name].append(sum(right) / len(right))
                done()
    return hits


def first_token_seconds(pair: ModelPair, tokens: int = 4096, keep: float = 0.25, runs: int = 3) -> dict[str, float]:
    """Median seconds to a question's first token, on a context of so many tokens: dense, and from its ContextCache."""
    text = contexts(1, sentences=tokens // 11, facts=40)[0].text
    tokenizer = pair.require_tokenizer()
    text = str(tokenizer.decode(tokenizer(text)["input_ids"][:tokens]))
    question = "What is the access code of the Lisbon library?"
    started = time.perf_counter()
    context = ContextCache.read(pair, text, keep=keep)
    read = time.perf_counter() - started
    whole = [{"role": "user", "content": f"{text}\n\n{question}"}]
    ways = {
        "dense": partial(generate, pair, whole, max_new_tokens=1),
        "from the context": partial(generate, pair, question, context=context, max_new_tokens=1),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - started)
    return {**{name: statistics.median(seconds) for name, seconds in taken.items()}, "reading it once": read}


def table(hits: Mapping[str, Sequence[float]]) -> str:
    """Markdown: a row per share, and what it answers more often than all pairs do, with 95% bootstrap intervals."""
    dense = hits["dense"]
    lines = [f"| {len(dense)} contexts, {QUESTIONS} questions each | answered right | less dense |", "|---|---|---|"]
    for name, shares in hits.items():
        low, high = interval(shares)
        row = f"| {name} | {statistics.mean(shares):.3f} [{low:.2f}, {high:.2f}] | "
        if name != "dense":
            more = [own - whole for own, whole in zip(shares, dense, strict=True)]
            low, high = interval(more)
            row += f"{statistics.mean(more):+.3f} [{low:+.2f}, {high:+.2f}] "
        lines.append(row + "|")
    return "\n".join(lines)


def seconds_table(seconds: Mapping[str, float]) -> str:
    """Markdown: a row per way."""
    ratio = seconds["dense"] / seconds["from the context"]
    rows = [f"| {name} | {value:.2f} |" for name, value in seconds.items()]
    return "\n".join(["", "| to the first token | seconds |", "|---|---|", *rows, f"| ratio | {ratio:.1f} |"])
