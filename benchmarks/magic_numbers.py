"""Six magic numbers hidden among fifty sentences: does the pruned cache still hold what the answer will need?

Generated, deterministic by seed, about 660 tokens for most tokenizers. The metric is the share of the numbers in the
answer. The generator does not know models; `magic_numbers_kept` does.
"""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from spec_rag.generation.decoding import decode
from spec_rag.generation.draft_pass import read_with_draft
from spec_rag.generation.prefill import pruned_cache
from spec_rag.generation.prompt_batch import Batch, PaddedPrompts, is_pruned, lookahead_by
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import GREEDY, SamplingConfig
from spec_rag.generation.target_calls import generate_from
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import SpecKVConfig
from spec_rag.text.prompts import prompt_ids
from spec_rag.utils.progress import steps

SENTENCES, NUMBERS = 50, 6
CAPACITIES = (64, 96, 160)
_PEOPLE = ("Anna", "Boris", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Klara", "Luca")
_THINGS = ("bridge", "garden", "library", "market", "museum", "orchard", "river", "station", "theatre", "tower")
_DEEDS = ("painted", "visited", "described", "crossed", "photographed", "sketched", "remembered", "admired", "left")
_TIMES = ("in the morning", "before lunch", "after the rain", "on a quiet day", "late in spring", "with an old friend")
CITIES = ("Lisbon", "Oslo", "Cairo", "Lima", "Delhi", "Paris", "Quito", "Rome", "Seoul", "Tunis", "Vienna", "Warsaw")


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


def plain_sentence(chance: random.Random) -> str:
    """A sentence that answers nothing."""
    return f"{chance.choice(_PEOPLE)} {chance.choice(_DEEDS)} the {chance.choice(_THINGS)} {chance.choice(_TIMES)}."


def _prompt(chance: random.Random) -> MagicNumbers:
    city = chance.choice(CITIES)
    numbers = [str(n) for n in chance.sample(range(1000, 10_000), NUMBERS)]
    plain = [plain_sentence(chance) for _ in range(SENTENCES - NUMBERS)]
    sentences = plain + [f"One of the magic numbers of {city} is {number}." for number in numbers]
    chance.shuffle(sentences)
    return MagicNumbers(
        "Some magic numbers are hidden in the following text. Memorize them; you will be asked for them "
        "afterwards.\n\n"
        f"{' '.join(sentences)}\n\nWhat are all the magic numbers of {city} mentioned in the text? "
        f"The {NUMBERS} magic numbers of {city} mentioned in the text are:",
        numbers,
    )


def variants(window: int | None = None, kernel_size: int | None = None) -> dict[str, SpecKVConfig]:
    """SnapKV, SpecKV and its variants by name; capacities are set by the measurement.

    Args:
        window, kernel_size: of every variant but the paper's; None leaves them to the preset.
    """
    base = SpecKVConfig(window_size=window, kernel_size=kernel_size, preset="scaled", lookahead="draft")
    return {
        "SpecKV": base,
        "at most 8 tokens": replace(base, lookahead_tokens=8),
        "at most 8 tokens without copies": replace(base, lookahead_tokens=8, copied_pieces=0),
        "copies alone": replace(base, lookahead="copies"),
        "uniform heads": replace(base, head_budget="uniform"),
        "SnapKV": replace(base, lookahead="none"),
        "paper": SpecKVConfig(preset="paper", lookahead="draft"),
    }


def magic_numbers_kept(
    pair: ModelPair,
    configs: Mapping[str, SpecKVConfig],
    capacities: Sequence[int] = CAPACITIES,
    prompts: int = 40,
    rows: int = 8,
    max_new_tokens: int = 42,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Per config, and for "dense", the share of the numbers in the answers at each capacity.

    Args:
        pair: draft and target.
        configs: by name; each is tried at each capacity.
        capacities: pairs per layer and KV head.
        prompts: how many.
        rows: prompts in a batch.
        max_new_tokens: of each answer.
        seed: of the prompts.
    """
    cases = magic_numbers(prompts, seed)
    hits: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(capacities))
    with steps("Answering", -(-prompts // rows) * (1 + len(configs) * len(capacities))) as done:
        for start in range(0, prompts, rows):
            part = cases[start : start + rows]
            texts = [prompt_ids(pair.tokenizer, case.prompt) for case in part]
            read = Batch.of(texts)
            wanted = SpecKVConfig(max_capacity_prompt=min(capacities), window_size=1, lookahead="draft")
            sampling = SamplingConfig(max_new_tokens)
            read_with_draft(GenerationRequest(pair, speckv=wanted, sampling=sampling), read)
            dense = decode(GenerationRequest(pair, sampling=sampling), Batch.of(texts))
            for answer, case in zip(dense, part, strict=True):
                hits["dense"] = [share + case.score(answer.text) for share in hits["dense"]]
            done()
            for name, config in configs.items():
                for i, capacity in enumerate(capacities):
                    chosen = replace(config, max_capacity_prompt=capacity)
                    for text, case in zip(_answers(pair, read, chosen, max_new_tokens), part, strict=True):
                        hits[name][i] += case.score(text)
                    done()
    return {name: [total / prompts for total in totals] for name, totals in hits.items()}


def lookahead_seconds(
    pair: ModelPair, configs: Mapping[str, SpecKVConfig], prompts: int = 4, max_new_tokens: int = 42, seed: int = 0
) -> dict[str, float]:
    """Per config, the median seconds that the draft takes for one prompt: it reads it and writes the look-ahead."""
    rows = [prompt_ids(pair.tokenizer, case.prompt) for case in magic_numbers(prompts, seed)]
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for row in rows:
        for name, config in configs.items():
            batch = Batch.of([row])
            smallest = replace(config, max_capacity_prompt=min(CAPACITIES))
            request = GenerationRequest(pair, speckv=smallest, sampling=SamplingConfig(max_new_tokens))
            read_with_draft(request, batch)
            seconds[name].append(batch.draft_seconds)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(
    kept: Mapping[str, Sequence[float]],
    prompts: int,
    capacities: Sequence[int] = CAPACITIES,
    seconds: Mapping[str, float] | None = None,
) -> str:
    """Markdown: a row per variant, a column per capacity, and one for the draft's seconds where they are given."""
    titles = [f"{prompts} prompts: share of the numbers", *map(str, capacities)]
    titles += [] if seconds is None else ["draft, seconds"]
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---|" * (len(titles) - 1)]
    for name, shares in kept.items():
        cells = [name, *(f"{share:.3f}" for share in shares)]
        cells += [] if seconds is None else [f"{seconds.get(name, 0):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _answers(pair: ModelPair, read: Batch, config: SpecKVConfig, max_new_tokens: int) -> list[str]:
    """Answers from caches that this config prunes, by the look-ahead that the draft has written before."""
    target, tokenizer = pair.require_target(), pair.require_tokenizer()
    batch = Batch.of(read.rows)
    batch.lookahead_by = [lookahead_by(pair, config, len(row)) for row in batch.rows]
    batch.lookahead = [
        row[: config.lookahead_tokens] if writer == "draft" else row[:0]
        for row, writer in zip(read.lookahead, batch.lookahead_by, strict=True)
    ]
    prompts = PaddedPrompts.of(target, batch)
    request = GenerationRequest(pair, speckv=config, sampling=SamplingConfig(max_new_tokens))
    cache = pruned_cache(request, batch, prompts) if is_pruned(prompts.tokens, config) else None
    written = generate_from(target, prompts, cache, max_new_tokens, **GREEDY)[:, prompts.tokens :]
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in written]
