"""Six magic numbers hidden among fifty sentences: does the pruned cache still hold what the answer will need?

Generated, deterministic by seed, about 660 tokens for most tokenizers. The metric is the share of the numbers in the
answer. The generator does not know models; `measure` does.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections import defaultdict
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from spec_rag.attention_capture import AttentionCall, base_attention, capture
from spec_rag.config import SpecKVConfig
from spec_rag.decoding import SamplingConfig, decode
from spec_rag.draft import GREEDY
from spec_rag.models import ModelPair
from spec_rag.prefill import PrefillPruner
from spec_rag.pruned_cache import DecodeMasks, PrunedCache
from spec_rag.request import Request, read_with_draft
from spec_rag.tokens import left_pad, prompt_ids

SENTENCES, NUMBERS = 50, 6
CAPACITIES = (64, 96, 160)
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


def measure(
    prompts: int = 40, batch: int = 8, max_new_tokens: int = 42, window: int = 8, kernel_size: int = 7, seed: int = 0
) -> str:
    """Accuracy of dense decoding, SnapKV, SpecKV and its variants with the default draft and target, as Markdown.

    Args:
        prompts: how many.
        batch: rows per batch.
        max_new_tokens: of each answer.
        window: observation window of every variant, SnapKV's included.
        kernel_size: width of the smoothing of every variant.
        seed: of the prompts.
    """
    pair = ModelPair.load()
    cases = magic_numbers(prompts, seed)
    base = SpecKVConfig(max_capacity_prompt=64, window_size=window, kernel_size=kernel_size)
    variants = {
        "SnapKV": replace(base, lookahead="none"),
        "SpecKV": base,
        "SpecKV, adaptive heads": replace(base, head_budget="adaptive"),
        **{f"SpecKV, look-ahead capped at {n}": replace(base, lookahead_tokens=n) for n in (4, 8, 16)},
    }
    hits: dict[tuple[str, int], float] = defaultdict(float)
    for start in range(0, prompts, batch):
        part = cases[start : start + batch]
        request = Request.of([prompt_ids(pair.tokenizer, case.prompt) for case in part])
        read_with_draft(pair, request, None, base, max_new_tokens)
        for answer, case in zip(decode(pair, request, None, SamplingConfig(max_new_tokens)), part, strict=True):
            hits["dense", 0] += case.score(answer.text)
        for written in (0, None, 4, 8, 16):
            configs = {
                (name, capacity): replace(variant, max_capacity_prompt=capacity)
                for name, variant in variants.items()
                for capacity in CAPACITIES
                if (0 if variant.lookahead == "none" else variant.lookahead_tokens) == written
            }
            for key, texts in _answers(pair, request, written, configs, max_new_tokens).items():
                hits[key] += sum(case.score(text) for case, text in zip(part, texts, strict=True))
    lines = [
        f"| {prompts} prompts, window {window}: share of the numbers | " + " | ".join(map(str, CAPACITIES)) + " |",
        "|---|" + "---|" * len(CAPACITIES),
        "| dense | " + " | ".join(f"{hits['dense', 0] / prompts:.2f}" for _ in CAPACITIES) + " |",
    ]
    for name in variants:
        lines.append(f"| {name} | " + " | ".join(f"{hits[name, c] / prompts:.2f}" for c in CAPACITIES) + " |")
    return "\n".join(lines)


def _answers(
    pair: ModelPair,
    request: Request,
    written: int | None,
    configs: dict[tuple[str, int], SpecKVConfig],
    max_new_tokens: int,
) -> dict[tuple[str, int], list[str]]:
    """Answers of all variants with one look-ahead, from one prefill that fills a cache for each of them."""
    target, tokenizer = pair.require_target(), pair.require_tokenizer()
    ids, mask = left_pad(request.rows, 0)
    positions, _ = left_pad(request.positions, 0)
    rows = [row[:written] for row in request.lookahead]
    width = max(len(row) for row in rows)
    lookahead = torch.stack([F.pad(row, (0, width - len(row))) for row in rows])
    there = torch.stack([torch.arange(width) < len(row) for row in rows])
    pruners = {
        key: PrefillPruner(PrunedCache(target.config), config, ids.shape[1], torch.cat([mask.bool(), there], dim=1))
        for key, config in configs.items()
    }
    first, *others = pruners.values()

    def observer(call: AttentionCall) -> None:
        for pruner in others:
            pruner.cache.layers[call.layer].update(call.key, call.value)
            pruner(call)
        first(call)

    last = positions[:, -1:] + torch.arange(1, width + 1)
    with capture(target, observer), torch.no_grad():
        target.get_decoder()(
            input_ids=torch.cat([ids, lookahead], dim=1),
            attention_mask=torch.cat([mask, there.long()], dim=1),
            position_ids=torch.cat([positions, last], dim=1),
            past_key_values=first.cache,
            use_cache=True,
        )
    answers = {}
    for key, pruner in pruners.items():
        masks = capture(target, DecodeMasks(pruner.cache, base_attention(target), target))
        with masks if pruner.cache.needs_masks else contextlib.nullcontext(), torch.no_grad():
            sequences = target.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=pruner.cache,
                max_new_tokens=max_new_tokens,
                pad_token_id=0,
                **GREEDY,
            )
        answers[key] = [tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True) for row in sequences]
    return answers


if __name__ == "__main__":
    print(measure(*map(int, sys.argv[1:])))
