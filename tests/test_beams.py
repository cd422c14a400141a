"""Beam search on every path, and batches whose rows end at different times."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from threads import until_waiting
from tiny import generate_together, random_ids, tiny_pair

from spec_rag import Answer, ModelPair, SpecKVConfig, SpecPCConfig, agenerate, generate, generate_batch
from spec_rag.errors import ConfigError
from spec_rag.generation.client import GenerationClient
from spec_rag.generation.request import GenerationRequest

SPECPC = SpecPCConfig(max_capacity_prompt=48, window_size=8, starting_layer_index=0)
SPECKV = SpecKVConfig(max_capacity_prompt=24, window_size=8)
METHODS = [(None, None), (SPECPC, None), (None, SPECKV), (SPECPC, SPECKV)]


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


def together(
    pair: ModelPair, prompts: list[Any], events: list[threading.Event] | None = None, **options: Any
) -> list[Answer]:
    """The prompts in one batch, as threads that ask at the same time get them."""
    found: dict[int, Answer] = {}

    def ask(i: int) -> None:
        found[i] = generate_together(pair, prompts[i], cancelled=events[i] if events else None, **options)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
    with pair.lock.hold():
        for i, thread in enumerate(threads):
            thread.start()
            until_waiting(pair.lock, i + 2)
    for thread in threads:
        thread.join()
    return [found[i] for i in range(len(prompts))]


@pytest.mark.parametrize(("specpc", "speckv"), METHODS)
def test_beams_write_the_same_on_every_path(
    pair: ModelPair, specpc: SpecPCConfig | None, speckv: SpecKVConfig | None
) -> None:
    prompts = [random_ids(90), random_ids(70, seed=1), random_ids(80, seed=2)]
    options: dict[str, Any] = {"specpc": specpc, "speckv": speckv, "max_new_tokens": 6, "num_beams": 3}
    alone = [generate(pair, prompt, **options).output_ids for prompt in prompts]
    assert [generate_together(pair, prompt, **options).output_ids for prompt in prompts] == alone
    assert [answer.output_ids for answer in together(pair, prompts, **options)] == alone
    assert [answer.output_ids for answer in generate_batch(pair, prompts, **options)] == alone
    client = GenerationClient(GenerationRequest.of(pair, **options))
    assert [client.answer(prompt).output_ids for prompt in prompts] == alone


async def test_beams_write_the_same_in_an_event_loop(pair: ModelPair) -> None:
    expected = generate(pair, random_ids(60), max_new_tokens=4, num_beams=2)
    assert (await agenerate(pair, random_ids(60), max_new_tokens=4, num_beams=2)).output_ids == expected.output_ids
    assert (
        await GenerationClient(GenerationRequest.of(pair, max_new_tokens=4, num_beams=2)).aanswer(random_ids(60))
    ).text == expected.text


class Soon(threading.Event):
    """Set once it has been asked a few times."""

    asked = 0

    def is_set(self) -> bool:
        self.asked += 1
        return self.asked > 8


@pytest.mark.parametrize("beams", [1, 2])
def test_a_row_that_is_cancelled_counts_its_own_tokens_and_the_others_go_on(pair: ModelPair, beams: int) -> None:
    prompts = [random_ids(40), random_ids(40, seed=1)]
    options: dict[str, Any] = {"max_new_tokens": 24, "num_beams": beams, "eos_token_id": -1}
    expected = generate(pair, prompts[1], **options).output_ids
    events = [Soon(), threading.Event()]
    found = together(pair, prompts, events, **options)
    assert found[0].completion_tokens == len(found[0].output_ids)
    assert (found[1].output_ids, found[1].completion_tokens) == (expected, 24)
    if beams == 1:
        assert found[0].finish_reason == "cancelled"
        assert found[0].completion_tokens < 24


@pytest.mark.parametrize("form", [{"regex": "yes|no"}, {"regex": "yes"}, {"schema": {"enum": ["a", "b"]}}])
@pytest.mark.parametrize("beams", [2, 3, 8])
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "seed": 4}])
def test_more_beams_than_the_form_allows_tokens_keep_to_the_form(
    pair: ModelPair, form: dict[str, Any], beams: int, sampling: dict[str, Any]
) -> None:
    for answer in generate_batch(pair, ["Hi", "Hello there"], max_new_tokens=12, num_beams=beams, **form, **sampling):
        assert answer.text in ("yes", "no", '"a"', '"b"')
        assert answer.finish_reason == "stop"


@pytest.mark.parametrize("beams", [0, -1, 1.5, "3", True])
def test_a_number_of_beams_that_is_none_is_named(pair: ModelPair, beams: object) -> None:
    with pytest.raises(ConfigError, match="num_beams="):
        generate(pair, "Hi", num_beams=beams)


@pytest.mark.parametrize("beams", [1, 2])
def test_several_return_sequences_are_refused_with_the_way_out(pair: ModelPair, beams: int) -> None:
    with pytest.raises(ConfigError, match=r"num_return_sequences=2 .*once per sequence"):
        generate_together(pair, "Hi", num_return_sequences=2, num_beams=beams)
    assert generate_together(pair, "Hi", num_return_sequences=1, num_beams=beams, max_new_tokens=2).completion_tokens


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(("specpc", "speckv"), METHODS)
def test_a_row_that_ends_early_by_a_stop_string_counts_and_holds_its_own_tokens(
    pair: ModelPair, specpc: SpecPCConfig | None, speckv: SpecKVConfig | None, beams: int
) -> None:
    prompts = ["Hi there. " * 6, "Bye bye now. " * 5, "What else is there? " * 3]
    options: dict[str, Any] = {"specpc": specpc, "speckv": speckv, "max_new_tokens": 16, "num_beams": beams}
    for prompt in prompts:
        text = generate(pair, prompt, **options).text
        for stop in {text[:1], text[2:4], text[5:6]} - {""}:
            if "\ufffd" in stop:
                continue
            alone = [generate(pair, one, stop=stop, **options) for one in prompts]
            for batch in (generate_batch(pair, prompts, stop=stop, **options),
                          together(pair, prompts, stop=stop, **options)):  # fmt: skip
                assert [one.output_ids for one in batch] == [one.output_ids for one in alone]
                assert [one.completion_tokens for one in batch] == [len(one.output_ids) for one in alone]
                assert [one.text for one in batch] == [one.text for one in alone]
                assert [one.finish_reason for one in batch] == [one.finish_reason for one in alone]


def test_what_is_not_a_token_id_is_refused_as_an_end_token(pair: ModelPair) -> None:
    for wrong in ("1", 1.5, [1, None]):
        with pytest.raises(ConfigError, match="eos_token_id="):
            generate(pair, "Hi", eos_token_id=wrong)


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, torch.tensor])
def test_several_end_tokens_may_be_given_as_any_collection(pair: ModelPair, kind: Any) -> None:
    whole = generate(pair, random_ids(40), max_new_tokens=12, eos_token_id=-1).output_ids
    ends = [whole[5], whole[3]]
    first = min(whole.index(end) for end in ends)
    for answer in (
        generate(pair, random_ids(40), max_new_tokens=12, eos_token_id=kind(ends)),
        generate_together(pair, random_ids(40), max_new_tokens=12, eos_token_id=kind(ends)),
    ):
        assert answer.output_ids == whole[: first + 1]
        assert answer.finish_reason == "stop"


def test_a_row_that_the_draft_does_not_read_takes_its_event_along(pair: ModelPair) -> None:
    short, long = random_ids(20), random_ids(120)
    events = [threading.Event(), Soon()]
    events[1].asked = -50  # type: ignore[attr-defined]  # set when the target writes
    expected = generate(pair, short, speckv=SPECKV, max_new_tokens=60, eos_token_id=-1).output_ids
    found = together(pair, [short, long], events, speckv=SPECKV, max_new_tokens=60, eos_token_id=-1)
    assert (found[0].output_ids, found[0].finish_reason) == (expected, "length")
    assert found[1].finish_reason == "cancelled"
