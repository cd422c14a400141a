"""Scores of units: standardised features, weights, title links, and probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from spec_rag.compression.features import Features
from spec_rag.compression.readout import PLAIN, TEXT, Readout
from spec_rag.compression.scoring import (
    best_tokens,
    head_features,
    prior_scores,
    probabilities,
    shared_reciprocal_rank,
    standardised,
    token_importance,
    unit_features,
    unit_scores,
)


def signals_of(attention: Tensor, ranges: list[list[int]], passages: list[int], **given: Any) -> Features:
    """Signals of units that are given by their tokens and passages; each passage is a document."""
    owners = torch.tensor(passages)
    whole = [[min(r[0] for r, p in zip(ranges, passages, strict=True) if p == own), 0] for own in sorted(set(passages))]
    for own, span in enumerate(whole):
        span[1] = max(r[1] for r, p in zip(ranges, passages, strict=True) if p == own)
    return Features(torch.tensor(ranges), owners, owners, torch.tensor(whole), attention, **given)


def test_a_token_matters_as_much_as_the_best_head_of_each_layer_says_on_average() -> None:
    attention = torch.tensor([[[0.1, 0.6], [0.5, 0.2]], [[0.3, 0.0], [0.1, 0.2]]])
    signals = signals_of(attention, [[0, 2]], [0])
    assert token_importance(signals).tolist() == pytest.approx([0.4, 0.4])


def test_the_best_tokens_of_a_range_speak_for_it() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.3], [1.0, 0.0, 0.0, 0.0, 0.0]])
    ranges = torch.tensor([[0, 4], [3, 5], [2, 2]])
    found = best_tokens(scores, ranges, 3)
    assert found[0].tolist() == pytest.approx([0.7, 0.5, 0.0])  # a short range by all it has, an empty one by nothing
    assert found[1].tolist() == pytest.approx([1 / 3, 0.0, 0.0])
    nothing = torch.zeros(0, 2, dtype=torch.long)
    assert best_tokens(scores, nothing, 3).shape == (2, 0)
    assert best_tokens(scores[0], nothing, 3).shape == (0,)
    assert best_tokens(scores.expand(4, 2, 5), nothing, 3).shape == (4, 2, 0)


def test_the_last_token_of_a_range_counts_and_the_next_does_not() -> None:
    scores = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert best_tokens(scores, torch.tensor([[0, 3]]), 1).tolist() == [1.0]
    assert best_tokens(scores, torch.tensor([[0, 2]]), 1).tolist() == [0.0]
    assert best_tokens(scores, torch.tensor([[3, 4]]), 1).tolist() == [0.0]


def test_standardised_scores_have_no_mean_and_unit_deviation_and_equal_ones_say_nothing() -> None:
    found = standardised(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std()) == pytest.approx(1, abs=1e-5)
    assert standardised(torch.tensor([5.0, 5.0, 5.0])).tolist() == [0.0, 0.0, 0.0]
    assert standardised(torch.tensor([5.0])).tolist() == [0.0]
    assert standardised(torch.zeros(0)).tolist() == []


def test_equal_scores_share_a_reciprocal_rank() -> None:
    assert shared_reciprocal_rank(torch.tensor([0.2, 0.9, 0.2])).tolist() == pytest.approx([1 / 6, 1 / 5, 1 / 6])


# three units in two passages; the second passage is looked at more, but none of its units more than the first unit
TWO = signals_of(torch.tensor([[[0.9, 0.0, 0.0, 0.0, 0.8, 0.8, 0.8, 0.8]]]), [[0, 2], [2, 4], [4, 8]], [0, 0, 1])


UNITS, OWNERS = [[0, 2], [2, 4], [4, 8]], [0, 0, 1]


def weighing(**weights: float) -> Readout:
    return replace(PLAIN, weights=weights, prior={n: w for n, w in weights.items() if n not in ("unit", "passage")})


def test_attention_counts_the_unit_and_the_passage_it_stands_in() -> None:
    attention = torch.tensor([[[0.5, 0.0, 0.5, 0.0, 0.9, 0.9, 0.0, 0.0]]])
    # the first and second unit show the same; what is else in the second one's passage makes the difference
    score = unit_scores(signals_of(attention, [[0, 2], [2, 4], [4, 6], [6, 8]], [0, 1, 1, 1]))
    assert float(score[1]) > float(score[0])
    assert float(score[2]) > float(score[1]) > float(score[3])


def test_single_heads_count_by_their_weights() -> None:
    attention = torch.tensor([[[0.3, 0.0, 0.9, 0.0], [0.0, 0.2, 0.0, 0.0]]])
    signals = signals_of(attention, [[0, 1], [1, 2], [2, 3], [3, 4]], [0, 0, 1, 1])
    second = Readout("tiny", 3, 2, 1, [[0.0, 1.0]], [[0.0, 0.0]], {}, {})
    assert second.layer_range(3) == (1, 2)
    assert int(unit_scores(signals, second).argmax()) == 1
    of_passages = unit_scores(signals, replace(second, unit=[[0.0, 0.0]], passage=[[0.0, 1.0]]))
    assert of_passages[0] == of_passages[1] > 0 > of_passages[2]


@pytest.mark.parametrize(
    ("weights", "given", "expected"),
    [
        ({"retrieval": 2.0}, {"retrieval": [1.0, 1.0, 4.0]}, [1.0, 1.0, 4.0]),
        ({"similarity": 2.0}, {"similarity": [0.1, 0.2, 0.9]}, [0.1, 0.2, 0.9]),
        ({"document_similarity": 2.0}, {"similarity": [0.1, 0.2, 0.9]}, [0.2, 0.2, 0.9]),
        ({"scorer": 2.0}, {"scorer": [7.0, 9.0, 7.0]}, [1 / 6, 1 / 5, 1 / 6]),
        ({"words_text": 2.0}, {"text": [[0, v, 0, 0, 0, 0, 0] for v in (1.0, 2.0, 6.0)]}, [1.0, 2.0, 6.0]),
    ],
)
def test_each_feature_is_standardised_and_weighed(
    weights: dict[str, float], given: dict[str, Any], expected: list[float]
) -> None:
    signals = signals_of(TWO.attention, UNITS, OWNERS, **{n: torch.tensor(v) for n, v in given.items()})
    score = unit_scores(signals, weighing(**weights))
    assert score.tolist() == pytest.approx((2 * standardised(torch.tensor(expected))).tolist(), abs=1e-4)
    assert torch.equal(unit_scores(TWO, weighing(**weights)), torch.zeros(3)), "what is missing adds nothing"
    assert prior_scores(signals, weighing(**weights)).tolist() == score.tolist()


def test_a_named_document_is_raised_by_deviations_of_the_score() -> None:
    links = torch.tensor([[0.0, 1.0, 1.0]])
    retrieval = torch.tensor([2.0, 0.0, 0.0])
    plain = unit_scores(signals_of(TWO.attention, UNITS, OWNERS, retrieval=retrieval), weighing(retrieval=3.0))
    signals = signals_of(TWO.attention, UNITS, OWNERS, retrieval=retrieval, links=links)
    linked = unit_scores(signals, weighing(retrieval=3.0, links=2.0))
    assert (linked - plain).tolist() == pytest.approx([0.0, 0.0, 2 * float(plain.std())])


@pytest.mark.parametrize("units", [0, 1, 3])
def test_few_or_equal_units_have_finite_scores(units: int) -> None:
    ranges = torch.tensor([[i, i + 1] for i in range(units)]).reshape(-1, 2)
    numbers = torch.arange(units)
    signals = Features(ranges, numbers, numbers, ranges, torch.zeros(1, 1, units), text=torch.ones(units, len(TEXT)))
    readout = replace(weighing(unit=1.0, words_unit=1.0), probability={"bias": -1, "slope": 1}, answerable={"bias": 1})
    score = unit_scores(signals, readout)
    assert score.tolist() == [0.0] * units
    found = probabilities(signals, score, readout)
    assert found is None if not units else found[0].tolist() == pytest.approx([0.2689] * units, abs=1e-4)


def test_probabilities_follow_the_scores_and_stay_between_0_and_1() -> None:
    signals = signals_of(TWO.attention, UNITS, OWNERS, text=torch.rand(3, len(TEXT)))
    given = {"bias": 0.5, "margin": 0.1, "attention_unit": 0.2}
    readout = replace(PLAIN, probability={**given, "slope": 0.7}, answerable={**given, "words_found": 0.3})
    score = unit_scores(signals, readout)
    likely, answerable = probabilities(signals, score, readout) or (torch.zeros(3), -1.0)
    assert likely.argsort().tolist() == score.argsort().tolist()
    assert 0 < float(likely.min()) <= float(likely.max()) < 1
    assert 0 < answerable < 1
    assert probabilities(signals, score, PLAIN) is None


def test_units_of_unread_passages_come_behind_all_others_by_what_else_is_known() -> None:
    attention = torch.tensor([[[0.1, 0.2, 0.3, 0.0, 0.0, 0.0]]])
    signals = signals_of(
        attention,
        [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]],
        [0, 0, 1, 2, 3, 3],
        retrieval=torch.tensor([3.0, 3.0, 2.0, -1.0, 1.0, 1.0]),
        links=torch.tensor([[2.0, 0.0, 1.0], [4.0, 1.0, 1.0]]),
        read=torch.tensor([True, True, False, False]),
    )
    score = unit_scores(signals)
    alone = signals_of(
        attention[..., :3],
        [[0, 1], [1, 2], [2, 3]],
        [0, 0, 1],
        retrieval=torch.tensor([3.0, 3.0, 2.0]),
        links=torch.tensor([[2.0, 0.0, 1.0]]),
    )
    assert score[:3].tolist() == pytest.approx(unit_scores(alone).tolist(), abs=1e-4)
    assert float(score[3:].max()) == pytest.approx(float(score[:3].min()) - 1)
    assert float(score[4]) == float(score[5]) > float(score[3])


@pytest.mark.parametrize("best", [3, 4])
def test_links_of_units_that_were_read_find_their_units_behind_unread_ones(best: int) -> None:
    """Units 0 to 2 are of an unread passage; the best unit names document 3, which is unit 5."""
    ranges = [[i, i + 1] for i in range(6)]
    attention = torch.zeros(1, 1, 6)
    attention[..., best] = 1.0
    unread = torch.tensor([False, True, True, True])
    given = {"read": unread, "links": torch.tensor([[best, 3.0, 1.0], [1.0, 2.0, 1.0]], dtype=torch.float64)}
    signals = signals_of(attention, ranges, [0, 0, 0, 1, 2, 3], **given)
    linked, plain = unit_scores(signals), unit_scores(replace(signals, links=None))
    assert len(linked) == 6
    raised = PLAIN.weights["links"] * float(plain[3:].std())
    assert float(linked[5] - plain[5]) == pytest.approx(raised, abs=1e-4), "the best unit names its document in full"
    assert linked[3:5].tolist() == plain[3:5].tolist()
    read_only = signals_of(attention[..., 3:], [[i, i + 1] for i in range(3)], [0, 1, 2])
    alone = unit_scores(replace(read_only, links=torch.tensor([[best - 3.0, 2.0, 1.0]], dtype=torch.float64)))
    assert linked[3:].tolist() == pytest.approx(alone.tolist())


@pytest.mark.parametrize(
    ("first", "second", "is_equal"),
    [([1.0, 1.0, 1.0, 0.0], [1.0] * 4, True), ([1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], False)],
)
def test_the_three_best_tokens_represent_a_unit(first: list[float], second: list[float], is_equal: bool) -> None:
    a, b = head_features(signals_of(torch.tensor([[first + second]]), [[0, 4], [4, 8]], [0, 0]))[0, 0, 0]
    assert bool(a == b) is is_equal


@pytest.mark.parametrize(("more", "is_equal"), [(8, True), (7, False)])
def test_the_eight_best_tokens_represent_a_passage(more: int, is_equal: bool) -> None:
    first, second = ([1.0] * n + [0.0] * (9 - n) for n in (more, more + 1))
    signals = signals_of(torch.tensor([[first + second]]), [[0, 1], [9, 10]], [0, 1])
    signals = replace(signals, passage_ranges=torch.tensor([[0, 9], [9, 18]]))
    a, b = unit_features(signals, head_features(signals))["passage"]
    assert bool(a == b) is is_equal
