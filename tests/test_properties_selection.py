"""What holds of any selection: budgets, order, what is held, what a larger budget brings, batches, settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import DOCUMENTS, TEXTS
from pydantic import BaseModel
from readings import reading_of, words
from torch import Tensor

from spec_rag.attention.token_selection import (
    best,
    first_distinct,
    ranked,
    select_across_layers,
    select_columns,
    select_kv,
    select_prompt_tokens,
    smooth,
)
from spec_rag.compression.packing import ScoredDocuments, SelectedText, select
from spec_rag.errors import BudgetTooSmallError, ConfigError
from spec_rag.generation.sampling import SamplingConfig
from spec_rag.options.compression import CompressionConfig, SpecKVConfig, SpecPCConfig
from spec_rag.text.units import kept_text, unit_spans


def total(kept: list[SelectedText]) -> int:
    return sum(words(one.text) for one in kept)


def kept_units(kept: list[SelectedText]) -> set[tuple[int, int]]:
    return {(d, i) for d, one in enumerate(kept) for i, reason in enumerate(one.reasons) if reason}


def is_best_alone(reading: ScoredDocuments, kept: list[SelectedText]) -> bool:
    """Whether the one unit that is kept is the best: only then a budget may be exceeded."""
    assert reading.scores is not None
    reasons = [reason for one in kept for reason in one.reasons]
    return [i for i, reason in enumerate(reasons) if reason] == [int(reading.scores.argmax())]


@st.composite
def readings(draw: Any, unit: str = "sentence") -> ScoredDocuments:
    """Documents of sentences that all differ, with scores of which no two are alike."""
    texts = draw(DOCUMENTS)
    count = sum(len(unit_spans(text, unit)) for text in texts)
    order = draw(st.permutations(range(count)))
    return reading_of(texts, [number / 4 - count / 8 for number in order], unit)


BUDGETS = st.integers(1, 60)


@given(readings(), BUDGETS, st.booleans(), st.sampled_from(["", " … ", "[...]"]))
def test_a_budget_is_never_exceeded(reading: ScoredDocuments, budget: int, cuts: bool, ellipsis: str) -> None:
    kept = select(reading, CompressionConfig(cut_units=cuts, ellipsis=ellipsis), words, budget)
    assert total(kept) <= budget or is_best_alone(reading, kept)


@given(readings(), BUDGETS, st.booleans())
def test_at_least_one_unit_is_kept(reading: ScoredDocuments, budget: int, cuts: bool) -> None:
    assert kept_units(select(reading, CompressionConfig(cut_units=cuts), words, budget))


@given(readings("token"), BUDGETS)
def test_a_budget_of_single_words_is_never_exceeded_and_used(reading: ScoredDocuments, budget: int) -> None:
    kept = select(reading, CompressionConfig(unit="token"), words, budget)
    assert total(kept) == min(budget, sum(words(document.text) for document in reading.documents))


@given(readings(), BUDGETS, st.booleans())
def test_kept_spans_are_exact_slices_ordered_and_apart(reading: ScoredDocuments, budget: int, cuts: bool) -> None:
    for document, one in zip(
        reading.documents, select(reading, CompressionConfig(cut_units=cuts), words, budget), strict=True
    ):
        assert all(0 <= a < b <= len(document.text) for a, b in one.spans)
        assert all(first[1] < second[0] for first, second in pairwise(one.spans))
        assert bool(one.spans) == bool(one.text)
        if "…" not in one.text:
            assert one.text == kept_text(document.text, one.spans, None)


@given(readings(), BUDGETS, st.booleans())
def test_the_same_reading_keeps_the_same(reading: ScoredDocuments, budget: int, cuts: bool) -> None:
    config = CompressionConfig(cut_units=cuts, context_before=1)
    assert select(reading, config, words, budget) == select(reading, config, words, budget)


@given(readings(), BUDGETS, st.randoms(use_true_random=False))
def test_documents_in_another_order_keep_the_same(reading: ScoredDocuments, budget: int, chance: Any) -> None:
    order = list(range(len(reading.documents)))
    chance.shuffle(order)
    firsts = [sum(len(own) for own in reading.units[:d]) for d in range(len(order))]
    assert reading.scores is not None
    scores = [s for d in order for s in reading.scores[firsts[d] : firsts[d] + len(reading.units[d])].tolist()]
    other = reading_of([reading.documents[d].text for d in order], scores)
    first = select(reading, CompressionConfig(), words, budget)
    assert select(other, CompressionConfig(), words, budget) == [first[d] for d in order]


def held_or_refused(reading: ScoredDocuments, config: CompressionConfig, budget: int) -> list[SelectedText] | None:
    try:
        return select(reading, config, words, budget)
    except BudgetTooSmallError:
        return None


@given(readings(), BUDGETS, st.integers(0, 30))
def test_what_is_held_stays_at_every_budget_that_has_room(reading: ScoredDocuments, budget: int, more: int) -> None:
    config = CompressionConfig(keep=("KEEP",))
    wanted = {
        (d, i)
        for d, own in enumerate(reading.units)
        for i, (a, b) in enumerate(own)
        if "KEEP" in reading.documents[d].text[a:b]
    }
    small, large = (held_or_refused(reading, config, size) for size in (budget, budget + more))
    if small is None:
        needed = sum(words(reading.documents[d].text[slice(*reading.units[d][i])]) for d, i in wanted)
        assert needed > budget, "it is refused only where there is no room"
        return
    assert large is not None
    assert wanted <= kept_units(small)
    assert wanted <= kept_units(large)


@given(readings(), BUDGETS, st.integers(0, 2), st.integers(0, 2))
def test_first_and_last_units_stay(reading: ScoredDocuments, budget: int, first: int, last: int) -> None:
    kept = held_or_refused(reading, CompressionConfig(keep_first=first, keep_last=last), budget)
    if kept is None:
        return
    for d, own in enumerate(reading.units):
        edges = {*range(min(first, len(own))), *range(max(len(own) - last, 0), len(own))}
        assert {(d, i) for i in edges} <= kept_units(kept)


@given(readings(), st.sampled_from([0.1, 0.3, 0.5, 0.8]), st.sampled_from([0.05, 0.1, 0.2]))
def test_more_coverage_keeps_what_less_of_it_kept(reading: ScoredDocuments, less: float, more: float) -> None:
    small, large = (select(reading, CompressionConfig(coverage=share), words, 10_000) for share in (less, less + more))
    assert kept_units(small) <= kept_units(large)


@given(readings(), st.floats(-3, 3))
def test_nothing_below_the_threshold_is_kept(reading: ScoredDocuments, threshold: float) -> None:
    kept = select(reading, CompressionConfig(threshold=threshold), words, 10_000)
    assert reading.scores is not None
    reasons = [reason for one in kept for reason in one.reasons]
    assert [reason is not None for reason in reasons] == [score >= threshold for score in reading.scores.tolist()]


@given(readings(), BUDGETS, st.integers(1, 20))
def test_no_document_takes_more_than_its_own_limit(reading: ScoredDocuments, budget: int, limit: int) -> None:
    kept = select(reading, CompressionConfig(document_max_tokens=limit), words, budget)
    most = max(words(one.text) for one in kept)
    assert (most <= min(limit, budget) and total(kept) <= budget) or is_best_alone(reading, kept)


@given(readings(), st.integers(1, 12))
def test_every_document_keeps_its_floor(reading: ScoredDocuments, floor: int) -> None:
    kept = select(reading, CompressionConfig(document_min_tokens=floor, ratio=0.1), words, 10_000)
    for document, one in zip(reading.documents, kept, strict=True):
        assert words(one.text) >= min(floor, words(document.text))


@given(st.integers(0, 500), st.integers(1, 600), st.floats(0.01, 1.0), st.integers(0, 300))
def test_a_budget_lies_between_its_floor_and_its_cap(tokens: int, cap: int, ratio: float, least: int) -> None:
    assert CompressionConfig(max_tokens=cap).budget_tokens(tokens) == cap
    budget = CompressionConfig(ratio=ratio, min_tokens=least).budget_tokens(tokens)
    assert min(least, tokens) <= budget <= max(tokens, 0)


# ---- attention

SCORES = st.integers(0, 2**31).map(lambda seed: torch.Generator().manual_seed(seed))


def scores(generator: torch.Generator, *shape: int) -> Tensor:
    """Some of them equal, as pooled attention is."""
    return torch.randint(0, 40, shape, generator=generator).float() / 40


@given(SCORES, st.integers(1, 80), st.integers(2, 60), st.integers(1, 20), st.integers(1, 9), st.integers(0, 9))
def test_spec_pc_keeps_its_capacity_with_the_window_in_order(
    generator: torch.Generator, tokens: int, capacity: int, window: int, kernel: int, neighbours: int
) -> None:
    assume(window < capacity)
    config = SpecPCConfig(
        max_capacity_prompt=capacity, window_size=window, kernel_size=kernel, neighbor_tokens=neighbours
    )
    found = select_prompt_tokens(scores(generator, tokens), config).tolist()
    assert len(found) == min(tokens, capacity)
    assert found == sorted(set(found))
    assert set(range(max(tokens - window, 0), tokens)) <= set(found)
    assert 0 <= found[0] <= found[-1] < tokens


@given(SCORES, st.integers(1, 60), st.integers(3, 40), st.sampled_from([1, 3, 5, 7]), st.sampled_from(["max", "mean"]))
def test_spec_kv_keeps_its_capacity_in_every_head(
    generator: torch.Generator, keys: int, capacity: int, kernel: int, pool: Any
) -> None:
    config = SpecKVConfig(max_capacity_prompt=capacity, window_size=2, kernel_size=kernel, pool_type=pool)
    found = select_kv(scores(generator, 2, 3, keys), config)
    assert found.shape == (2, 3, min(capacity - 2, keys))
    assert bool((found.diff(dim=-1) > 0).all())
    assert int(found.min()) >= 0
    assert int(found.max()) < keys


@given(SCORES, st.integers(4, 60), st.integers(4, 30), st.floats(0.05, 1.0))
def test_adaptive_heads_share_one_budget_and_none_goes_without(
    generator: torch.Generator, keys: int, budget: int, floor: float
) -> None:
    budget = min(budget, keys)
    config = SpecKVConfig(max_capacity_prompt=budget + 2, window_size=2, head_budget="adaptive", head_floor=floor)
    found = select_kv(scores(generator, 1, 4, keys), config)[0]
    kept = (found >= 0).sum(dim=-1)
    assert int(kept.sum()) == 4 * budget
    assert int(kept.min()) >= max(1, int(floor * budget))
    assert int(kept.max()) <= 2 * budget
    assert all(row[row >= 0].diff().gt(0).all() for row in found)


@given(SCORES, st.integers(6, 40), st.integers(0, 20), st.integers(3, 12), st.booleans())
def test_a_padded_row_keeps_what_it_keeps_alone(
    generator: torch.Generator, keys: int, padding: int, budget: int, adaptive: bool
) -> None:
    heads: Any = "adaptive" if adaptive else "uniform"
    config = SpecKVConfig(max_capacity_prompt=budget + 2, window_size=2, kernel_size=3, head_budget=heads)
    own = scores(generator, 1, 2, keys)
    wide = torch.cat([torch.full((1, 2, padding), 9.0), own], dim=-1)
    mask = (torch.arange(keys + padding) >= padding)[None]
    for choose in (select_kv, select_columns):
        alone, padded = choose(own, config), choose(wide, config, mask)
        for mine, row in zip(alone[0], padded[0], strict=True):
            assert (row[row >= padding] - padding).tolist() == mine[mine >= 0].tolist()


@given(SCORES, st.integers(1, 50), st.integers(1, 12))
def test_smoothing_keeps_the_number_and_never_lowers_a_maximum(
    generator: torch.Generator, tokens: int, kernel: int
) -> None:
    own = scores(generator, 2, tokens)
    pooled = smooth(own, kernel, "max")
    assert pooled.shape == own.shape
    assert bool((pooled >= own).all())
    assert float(pooled.max()) == float(own.max())
    assert bool((smooth(own, kernel, "mean") <= pooled + 1e-6).all())


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 30))
def test_first_distinct_values_come_in_their_order(values: list[int], count: int) -> None:
    assert first_distinct(torch.tensor(values), count).tolist() == list(dict.fromkeys(values))[:count]


# ---- settings

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5000), st.floats(), TEXTS, st.lists(st.integers(), max_size=2)
)
CONFIGS: list[Callable[..., Any]] = [CompressionConfig, SpecPCConfig, SpecKVConfig]


def made_or_refused(make: Callable[[], Any]) -> tuple[Any, str]:
    """What was made, or what the refusal says; nothing else may be raised."""
    try:
        return make(), ""
    except ConfigError as error:
        return None, str(error)


def field_names(config: Any) -> list[str]:
    return list(
        config.model_fields if issubclass(config, BaseModel) else [field.name for field in dataclasses.fields(config)]
    )


@given(st.sampled_from(CONFIGS), st.data())
def test_any_settings_are_taken_or_refused_by_name(config: Any, data: st.DataObject) -> None:
    names = st.sampled_from(sorted(field_names(config)))
    settings = data.draw(st.dictionaries(names, ODD, max_size=3))
    made, said = made_or_refused(lambda: config(**settings))
    if said:
        assert any(name in said for name in settings)
    else:
        assert config.from_dict({name: getattr(made, name) for name in field_names(config)}) == made


@given(st.dictionaries(st.sampled_from(["temperature", "top_p", "top_k", "seed", "stop", "num_beams", "bogus"]), ODD))
def test_any_sampling_is_taken_or_refused_by_name(options: dict[str, Any]) -> None:
    made, said = made_or_refused(lambda: SamplingConfig.of(5, options))
    if said:
        assert any(name in said for name in options)
    else:
        assert made.options["do_sample"] in (True, False)


@given(ODD)
def test_any_length_is_taken_or_refused_by_name(value: Any) -> None:
    made, said = made_or_refused(lambda: SamplingConfig.of(value, {}))
    assert "max_new_tokens" in said if said else made.max_new_tokens == value


PLATEAUS = st.integers(0, 2**32 - 1).map(
    # few values, so that many are equal, and pooling makes more of them equal
    lambda seed: torch.randint(0, 9, (400,), generator=torch.Generator().manual_seed(seed)).float()
)


@given(PLATEAUS, st.integers(9, 380), st.sampled_from(["max", "mean"]), st.sampled_from([None, 0, 5]))
def test_one_more_prompt_token_leaves_the_others_in_place(
    importance: Tensor, capacity: int, pool: str, neighbors: int | None
) -> None:
    def kept(more: int) -> set[int]:
        config = SpecPCConfig(
            max_capacity_prompt=capacity + more, window_size=8, kernel_size=7, pool_type=pool, neighbor_tokens=neighbors
        )
        return set(select_prompt_tokens(importance, config).tolist())

    assert kept(0) < kept(1)


@given(PLATEAUS, st.integers(9, 380), st.sampled_from(["max", "mean"]), st.sampled_from([16, 2048]))
def test_one_more_pair_leaves_the_others_in_place(scores: Tensor, capacity: int, pool: str, columns: int) -> None:
    heads = torch.stack([scores, scores.flip(0)])[None]

    def kept(more: int) -> list[set[int]]:
        config = SpecKVConfig(
            max_capacity_prompt=capacity + more, window_size=8, pool_type=pool, prefill_vertical_size=columns,
            head_budget="uniform",
        )  # fmt: skip
        return [set(head) for head in select_kv(heads, config)[0].tolist()]

    for fewer, more in zip(kept(0), kept(1), strict=True):
        assert fewer < more


@given(PLATEAUS, st.integers(1, 399))
def test_the_best_are_the_first_of_equal_scores_and_nested(scores: Tensor, count: int) -> None:
    fewer, more = best(scores, count), best(scores, count + 1)
    assert set(fewer.tolist()) < set(more.tolist())
    assert fewer.tolist() == sorted(ranked(scores)[:count].tolist())
    values, chosen = scores.tolist(), set(fewer.tolist())
    least = min(values[i] for i in chosen)
    equal = [i for i, value in enumerate(values) if value == least]
    assert [i for i in equal if i in chosen] == equal[: len(chosen.intersection(equal))]


@given(PLATEAUS, st.integers(1, 199))
def test_one_more_pair_per_head_of_a_context_leaves_the_others_in_place(scores: Tensor, kept: int) -> None:
    layers = [scores[:200].view(1, 200), scores[200:].view(1, 200)]
    for adaptive in (True, False):
        fewer = select_across_layers(layers, kept, 4, adaptive=adaptive)
        more = select_across_layers(layers, kept + 1, 4, adaptive=adaptive)
        if kept >= 4:  # below, the first tokens alone are kept
            assert all(bool((one <= other).all()) for one, other in zip(fewer, more, strict=True))


@given(PLATEAUS, st.integers(1, 380))
def test_one_more_column_leaves_the_others_in_place(scores: Tensor, columns: int) -> None:
    heads = torch.stack([scores, scores.flip(0)])[None]
    fewer, more = (
        select_columns(heads, SpecKVConfig(prefill_vertical_size=columns + one))[0].tolist() for one in (0, 1)
    )
    assert all(set(a) < set(b) for a, b in zip(fewer, more, strict=True))
