"""From what was seen to one score per unit: each pure function by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from spec_rag.compression import scoring
from spec_rag.compression.features import Features
from spec_rag.compression.scoring import (
    PARTS,
    best_tokens,
    prior_scores,
    reciprocal_rank,
    standardised,
    token_importance,
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
    heads = torch.tensor([[0.5, 0.0], [0.25, 0.25]])
    assert token_importance(signals, heads).tolist() == pytest.approx([0.15, 0.35])


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


def test_ranks_are_worth_less_the_further_down_and_ties_keep_reading_order() -> None:
    assert reciprocal_rank(torch.tensor([0.2, 0.9, 0.2])).tolist() == pytest.approx([1 / 6, 1 / 5, 1 / 7])


# three units in two passages; the second passage is looked at more, but none of its units more than the first unit
TWO = signals_of(torch.tensor([[[0.9, 0.0, 0.0, 0.0, 0.8, 0.8, 0.8, 0.8]]]), [[0, 2], [2, 4], [4, 8]], [0, 0, 1])


def test_attention_counts_the_unit_and_the_passage_it_stands_in() -> None:
    attention = torch.tensor([[[0.5, 0.0, 0.5, 0.0, 0.9, 0.9, 0.0, 0.0]]])
    # the first and second unit show the same; what is else in the second one's passage makes the difference
    signals = signals_of(attention, [[0, 2], [2, 4], [4, 6], [6, 8]], [0, 1, 1, 1])
    score = scoring.attention(signals, torch.zeros(4))
    assert float(score[1]) > float(score[0])
    assert float(score[2]) > float(score[1]) > float(score[3])
    assert float(score.std()) == pytest.approx(1, abs=1e-4)
    assert torch.equal(scoring.attention(signals, torch.ones(4)), score + 1)


def test_calibrated_heads_have_a_say_beside_the_best_head() -> None:
    attention = torch.tensor([[[0.3, 0.0, 0.9, 0.0], [0.0, 0.2, 0.0, 0.0]]])
    units, passages = [[0, 1], [1, 2], [2, 3], [3, 4]], [0, 0, 1, 1]
    plain = scoring.attention(signals_of(attention, units, passages), torch.zeros(4))
    second = torch.tensor([[0.0, 1.0]])
    trusted = scoring.attention(signals_of(attention, units, passages, unit_heads=second), torch.zeros(4))
    assert int((trusted - plain).argmax()) == 1
    of_passages = scoring.attention(signals_of(attention, units, passages, passage_heads=second), torch.zeros(4))
    gain = of_passages - plain
    assert float(gain[0]) > 0 > float(gain[2])


def test_the_likelihood_counts_the_words_that_a_passage_foretells_better_than_the_others() -> None:
    log_p = torch.tensor([[-1.0, -9.0], [-3.0, -2.0], [-2.0, -7.0]])  # on average -2 and -6
    ranges, passages = [[0, 2], [2, 4], [4, 6], [6, 8]], [0, 0, 1, 2]
    gain = scoring.likelihood(signals_of(TWO.attention, ranges, passages, log_likelihood=log_p), torch.zeros(4))
    # the first passage gains 1 by its first word, the second 4 by its second; what they lose does not count
    assert gain.tolist() == pytest.approx((0.5 * standardised(torch.tensor([1.0, 1.0, 4.0, 0.0]))).tolist())
    assert scoring.likelihood(TWO, torch.ones(3)).tolist() == [1.0] * 3


def test_the_retrievers_score_raises_the_units_of_its_document() -> None:
    signals = signals_of(TWO.attention, [[0, 2], [2, 4], [4, 8]], [0, 0, 1], retrieval=torch.tensor([1.0, 1.0, 4.0]))
    score = scoring.retrieval(signals, torch.zeros(3))
    assert score.tolist() == pytest.approx((0.75 * standardised(torch.tensor([1.0, 1.0, 4.0]))).tolist())
    assert scoring.retrieval(TWO, torch.ones(3)).tolist() == [1.0] * 3


def test_a_passage_that_was_not_asked_for_the_likelihood_gains_nothing_and_counts_in_no_mean() -> None:
    log_p = torch.tensor([[-1.0, -9.0], [torch.nan, torch.nan], [-3.0, -7.0]])
    ranges, passages = [[0, 2], [2, 4], [4, 6]], [0, 1, 2]
    gain = scoring.likelihood(signals_of(TWO.attention, ranges, passages, log_likelihood=log_p), torch.zeros(3))
    assert gain.tolist() == pytest.approx((0.5 * standardised(torch.tensor([1.0, 0.0, 1.0]))).tolist())


def test_similarity_counts_the_unit_and_the_best_of_its_document() -> None:
    own = torch.tensor([0.1, 0.2, 0.9])
    signals = signals_of(TWO.attention, [[0, 2], [2, 4], [4, 8]], [0, 0, 1], similarity=own)
    expected = 0.75 * standardised(own) + 0.25 * standardised(torch.tensor([0.2, 0.2, 0.9]))
    assert scoring.similarity(signals, torch.zeros(3)).tolist() == pytest.approx(expected.tolist())
    assert scoring.similarity(TWO, torch.ones(3)).tolist() == [1.0] * 3


def test_a_named_document_is_raised_and_without_names_nothing_is() -> None:
    links = torch.tensor([[0.0, 1.0, 1.0]])
    signals = signals_of(TWO.attention, [[0, 2], [2, 4], [4, 8]], [0, 0, 1], links=links)
    assert scoring.links(signals, torch.tensor([2.0, 0.0, 0.0])).tolist() == pytest.approx([2.0, 0.0, 8.0])
    assert scoring.links(TWO, torch.ones(3)).tolist() == [1.0] * 3


def test_the_parts_speak_one_after_the_other() -> None:
    signals = signals_of(
        TWO.attention,
        [[0, 2], [2, 4], [4, 8]],
        [0, 0, 1],
        retrieval=torch.tensor([1.0, 1.0, 4.0]),
        links=torch.tensor([[0.0, 1.0, 1.0]]),
    )
    score = torch.zeros(3)
    for part in PARTS.values():
        score = part(signals, score)
    assert torch.equal(unit_scores(signals), score)
    assert len(unit_scores(signals_of(torch.zeros(1, 1, 1), [[0, 1]], [0]))) == 1


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
    assert score[:3].tolist() == pytest.approx(unit_scores(alone).tolist())
    assert float(score[3:].max()) == pytest.approx(float(score[:3].min()) - 1)
    assert float(score[4]) == float(score[5]) > float(score[3])


def test_what_is_known_without_the_draft_is_retrieval_similarity_words_and_titles() -> None:
    def prior(**known: Any) -> list[float]:
        given = {name: torch.tensor(value) for name, value in known.items()}
        return prior_scores(signals_of(TWO.attention, [[0, 2], [2, 4], [4, 8]], [0, 0, 1], **given)).tolist()

    def spread(*values: float) -> Tensor:
        return standardised(torch.tensor(values, dtype=torch.float32))

    assert prior() == [0.0, 0.0, 0.0]
    assert prior(words=[1.0, 2.0, 6.0]) == pytest.approx(spread(1, 2, 6).tolist(), abs=1e-5)
    both = standardised(spread(4, 4, 1) + 0.5 * spread(1, 2, 6))
    assert prior(words=[1.0, 2.0, 6.0], retrieval=[4.0, 4.0, 1.0]) == pytest.approx(both.tolist(), abs=1e-5)
    named = prior(similarity=[0.9, 0.1, 0.1], links=[[0.0, 1.0, 0.5]])
    assert named[2] == pytest.approx(float(spread(0.9, 0.1, 0.1)[2]) + 4, abs=1e-4)


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
    assert float(linked[5] - plain[5]) == pytest.approx(8.0, abs=1e-4), "the best unit names its document in full"
    assert linked[3:5].tolist() == plain[3:5].tolist()
    read_only = signals_of(attention[..., 3:], [[i, i + 1] for i in range(3)], [0, 1, 2])
    alone = unit_scores(replace(read_only, links=torch.tensor([[best - 3.0, 2.0, 1.0]], dtype=torch.float64)))
    assert linked[3:].tolist() == pytest.approx(alone.tolist())


def attention_scores(values: list[list[float]], ranges: list[list[int]], passages: list[int]) -> list[float]:
    attention = torch.tensor([[[score for one in values for score in one]]])
    return PARTS["attention"](signals_of(attention, ranges, passages), torch.zeros(len(ranges))).tolist()


def test_the_three_best_tokens_speak_for_a_unit() -> None:
    for first, second, is_equal in (
        ([1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], False),
    ):
        a, b = attention_scores([first, second], [[0, 4], [4, 8]], [0, 0])
        assert (a == b) is is_equal


def test_the_eight_best_tokens_speak_for_a_passage() -> None:
    for more, is_equal in ((8, True), (7, False)):
        first, second = ([1.0] * n + [0.0] * (9 - n) for n in (more, more + 1))
        signals = signals_of(torch.tensor([[first + second]]), [[0, 1], [9, 10]], [0, 1])
        signals = replace(signals, passage_ranges=torch.tensor([[0, 9], [9, 18]]))
        a, b = PARTS["attention"](signals, torch.zeros(2)).tolist()
        assert (a == b) is is_equal
