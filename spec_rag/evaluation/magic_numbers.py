"""Six magic numbers hidden among fifty sentences: does the pruned cache still hold what the answer will need?

Generated, deterministic by seed, about 660 tokens for most tokenizers. The metric is the share of the numbers in the
answer. This module does not know models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SENTENCES, NUMBERS = 50, 6
_PEOPLE = ("Anna", "Boris", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Klara", "Luca")
_THINGS = ("bridge", "garden", "library", "market", "museum", "orchard", "river", "station", "theatre", "tower")
_DEEDS = ("painted", "visited", "described", "crossed", "photographed", "sketched", "remembered", "admired", "left")
_TIMES = ("in the morning", "before lunch", "after the rain", "on a quiet day", "late in spring", "with an old friend")
_CITIES = ("Lisbon", "Oslo", "Cairo", "Lima", "Delhi", "Paris", "Quito", "Rome", "Seoul", "Tunis", "Vienna", "Warsaw")


@dataclass(frozen=True)
class MagicNumbers:
    """One prompt as text, and the numbers that its answer must name."""

    prompt: str
    numbers: list[str]

    def score(self, answer: str) -> float:
        """Share of the numbers that stand in the answer, 0 to 1."""
        return sum(number in answer for number in self.numbers) / len(self.numbers)


def magic_numbers(count: int, seed: int = 0) -> list[MagicNumbers]:
    """`count` prompts of 44 plain sentences and six "One of the magic numbers of CITY is N.", shuffled."""
    chance = random.Random(seed)
    return [_prompt(chance) for _ in range(count)]


def _prompt(chance: random.Random) -> MagicNumbers:
    city = chance.choice(_CITIES)
    numbers = [str(n) for n in chance.sample(range(1000, 10_000), NUMBERS)]
    plain = [
        f"{chance.choice(_PEOPLE)} {chance.choice(_DEEDS)} the {chance.choice(_THINGS)} {chance.choice(_TIMES)}."
        for _ in range(SENTENCES - NUMBERS)
    ]
    sentences = plain + [f"One of the magic numbers of {city} is {number}." for number in numbers]
    chance.shuffle(sentences)
    return MagicNumbers(
        "Some magic numbers are hidden in the following text. Memorize them; you will be asked for them "
        "afterwards.\n\n"
        f"{' '.join(sentences)}\n\nWhat are all the magic numbers of {city} mentioned in the text? "
        f"The {NUMBERS} magic numbers of {city} mentioned in the text are:",
        numbers,
    )


def measure(prompts: int = 40, batch: int = 8, max_new_tokens: int = 48, seed: int = 0) -> str:
    """Accuracy of dense decoding, SnapKV, SpecKV and its variants with the default draft and target, as Markdown.

    The look-ahead of a batch is written once and shared by all variants, as it is the same for all of them.
    """
    from dataclasses import replace

    from spec_rag.config import SpecKVConfig
    from spec_rag.decoding import SamplingConfig, decode
    from spec_rag.models import ModelPair
    from spec_rag.request import Request, read_with_draft
    from spec_rag.tokens import prompt_ids

    pair = ModelPair.load()
    cases = magic_numbers(prompts, seed)
    base = SpecKVConfig(max_capacity_prompt=64)
    variants = {
        "SnapKV": replace(base, lookahead="none"),
        "SpecKV": base,
        "SpecKV, adaptive heads": replace(base, head_budget="adaptive"),
        **{f"SpecKV, look-ahead capped at {n}": replace(base, lookahead_tokens=n) for n in (4, 8, 16)},
    }
    capacities = (64, 96, 160)
    hits: dict[tuple[str, int], float] = {}
    sampling = SamplingConfig(max_new_tokens)
    for start in range(0, prompts, batch):
        part = cases[start : start + batch]
        rows = [prompt_ids(pair.tokenizer, case.prompt) for case in part]
        written = Request.of(rows)
        read_with_draft(pair, written, None, base, max_new_tokens)

        def add(name: str, capacity: int, config: SpecKVConfig | None, part=part, rows=rows, written=written) -> None:  # type: ignore[no-untyped-def]
            request = Request.of(rows)
            if config is not None and config.lookahead == "draft":
                request.lookahead = [row[: config.lookahead_tokens] for row in written.lookahead]
            answers = decode(pair, request, config, sampling)
            total = sum(case.score(answer.text) for case, answer in zip(part, answers, strict=True))
            hits[name, capacity] = hits.get((name, capacity), 0.0) + total

        add("dense", 0, None)
        for name, variant in variants.items():
            for capacity in capacities:
                add(name, capacity, replace(variant, max_capacity_prompt=capacity))
    dense = hits["dense", 0] / prompts
    lines = [
        f"| {prompts} prompts, share of the numbers | " + " | ".join(map(str, capacities)) + " |",
        "|---|" + "---|" * len(capacities),
        "| dense | " + " | ".join(f"{dense:.2f}" for _ in capacities) + " |",
    ]
    for name in variants:
        lines.append(f"| {name} | " + " | ".join(f"{hits[name, c] / prompts:.2f}" for c in capacities) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    print(measure(*map(int, sys.argv[1:])))
