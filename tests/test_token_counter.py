"""How long a text is, in the tokens that a budget is given in."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from tiny import tiny_pair, tiny_tokenizer

from spec_rag import ModelPair, compress
from spec_rag.errors import ConfigError
from spec_rag.text.token_counting import token_counter


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


def test_the_draft_a_tokenizer_and_a_function_count_each_in_their_own_way() -> None:
    draft, other = tiny_tokenizer(), tiny_tokenizer()
    other.add_tokens(["harbour"])
    assert token_counter("draft", draft)("harbour") == 7
    assert token_counter(other, draft)("harbour") == 1
    assert token_counter(lambda text: len(text.split()), draft)("two words") == 2


def test_control_tokens_that_a_text_spells_out_count_as_the_text_they_are() -> None:
    assert token_counter("draft", tiny_tokenizer())("<|im_end|>") == 10


def test_tiktoken_counts_for_a_served_model_and_takes_any_text() -> None:
    pytest.importorskip("llama_index.core")
    count = token_counter("cl100k_base", tiny_tokenizer())
    assert count("Hello world") == 2
    assert count("<|endoftext|>") > 1
    assert count("lone \ud800 surrogate") > 2


def test_no_text_that_says_something_is_shorter_than_a_token() -> None:
    count = token_counter(lambda text: len(text) // 4, tiny_tokenizer())
    assert [count(text) for text in ("", "  ", "a", "OK.", "twelve chars")] == [0, 0, 1, 1, 3]


@pytest.mark.parametrize("returned", [-1, 2.5, None, "3", True])
def test_what_is_no_number_of_tokens_is_refused(returned: Any) -> None:
    with pytest.raises(ConfigError, match="count_with returned"):
        token_counter(lambda text: returned, tiny_tokenizer())("some text")


@pytest.mark.parametrize("count_with", [7, None, "no-such-encoding"])
def test_what_cannot_count_is_refused(count_with: Any) -> None:
    with pytest.raises(ConfigError, match="count_with="):
        token_counter(count_with, tiny_tokenizer())


@pytest.mark.parametrize("function", ["get_encoding", "encoding_for_model"])
def test_a_vocabulary_that_cannot_be_fetched_is_told_with_what_needs_no_network(
    function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str) -> None:
        raise ConnectionError(name)

    monkeypatch.setattr(f"tiktoken.{function}", unreachable)
    with pytest.raises(ConfigError, match=r"has to fetch this vocabulary and cannot \(ConnectionError\).*'gpt2'"):
        token_counter("gpt-4o", tiny_tokenizer())


def give_up(*_: object) -> None:
    raise AssertionError("it goes on for ever")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that could end the loop")
@pytest.mark.parametrize("cut_units", [False, True])
@pytest.mark.parametrize(
    "text", ["\n".join("abcdefghij"), "Yes. No. Yes. Perhaps. No. OK", "a. b. c. d. e. f. g. h. i. j."]
)
def test_a_counter_that_gives_nothing_for_short_units_ends(pair: ModelPair, text: str, cut_units: bool) -> None:
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        result = compress(
            [text], "Which?", draft=pair, ratio=0.5, count_with=lambda piece: len(piece) // 4, cut_units=cut_units
        )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert result.tokens_after <= result.budget_tokens + result.over_budget
