"""Answers through the pruned cache: what is kept, and that nothing else changes."""

from __future__ import annotations

import asyncio
import functools
import re
import threading

import pytest
import torch
from tiny import FAMILIES, random_ids, target_only, tiny_model, tiny_pair, tiny_tokenizer

from spec_rag import ModelPair, SpecKVConfig, SpecPCConfig, generate, generate_batch, score_prompt, stream
from spec_rag.errors import ConfigError, IncompatibleModelsError, PromptTooLongError
from spec_rag.generation import decoding
from spec_rag.generation import draft_pass as draft
from spec_rag.generation import stop_criteria as stopping
from spec_rag.generation.draft_pass import until_end


def everything_kept(tokens: int, **settings: object) -> SpecKVConfig:
    """A capacity that a prompt of so many tokens exceeds by one, so that the pruned path runs and drops nothing."""
    return SpecKVConfig(max_capacity_prompt=tokens - 1, window_size=16, lookahead="none", **settings)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("head_budget", ["uniform", "adaptive"])
def test_keeping_every_pair_gives_the_dense_tokens(kind: str, head_budget: str) -> None:
    pair, prompt = target_only(kind), random_ids(200)
    dense = generate(pair, prompt, max_new_tokens=24)
    kept = generate(pair, prompt, speckv=everything_kept(200, head_budget=head_budget), max_new_tokens=24)
    assert kept.output_ids == dense.output_ids
    assert kept.kv_bytes_kept > 0


def test_keeping_every_pair_gives_the_dense_tokens_on_a_real_model(smollm2: ModelPair) -> None:
    sentences = [f"Station {i} reported {i * 37 % 91} degrees and calm seas." for i in range(54)]
    prompt = [{"role": "user", "content": " ".join(sentences) + " Which station reported 74 degrees?"}]
    dense = generate(smollm2, prompt, max_new_tokens=16)
    assert dense.prompt_tokens >= 700
    kept = generate(smollm2, prompt, speckv=everything_kept(dense.prompt_tokens), max_new_tokens=16)
    assert kept.output_ids == dense.output_ids


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_layer_holds_its_capacity_and_the_bytes_say_so(kind: str) -> None:
    pair = target_only(kind)
    answer = generate(
        pair, random_ids(200), speckv=SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead="none")
    )
    assert [[len(head) for head in layer] for layer in answer.kept_positions] == [[40, 40]] * 3
    pair_bytes = 2 * 16 * 4  # key and value, head dim 16, float32
    assert answer.kv_bytes_kept == 3 * 2 * 40 * pair_bytes
    assert answer.kv_bytes_dense == 3 * 2 * 199 * pair_bytes
    assert all(head[-8:] == list(range(191, 199)) for layer in answer.kept_positions for head in layer)


def test_the_shortest_prompt_over_the_smallest_capacity_is_pruned() -> None:
    speckv = SpecKVConfig(max_capacity_prompt=9, window_size=8, lookahead="none")
    answer = generate(target_only(), random_ids(10), speckv=speckv, max_new_tokens=2)
    assert all(len(head) == 9 for layer in answer.kept_positions for head in layer)


def test_a_prompt_that_fits_is_answered_without_a_draft() -> None:
    pair = tiny_pair()
    prompt = random_ids(60)
    dense = generate(pair, prompt, max_new_tokens=8)
    without_draft = ModelPair(target=pair.target)
    answer = generate(without_draft, prompt, SpecPCConfig(), SpecKVConfig(), max_new_tokens=8)
    assert answer.output_ids == dense.output_ids
    assert answer.timings.draft_seconds == 0.0
    assert answer.lookahead_ids == []


@pytest.mark.parametrize("head_budget", ["uniform", "adaptive"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_row_of_a_batch_equals_the_row_alone(kind: str, head_budget: str) -> None:
    overrides = FAMILIES[kind]
    draft = tiny_model(kind, seed=1, layers=3, **overrides)
    pair = ModelPair(draft=draft, target=tiny_model(kind, seed=2, layers=3, **overrides))
    speckv = SpecKVConfig(max_capacity_prompt=48, window_size=8, lookahead_tokens=6, head_budget=head_budget)
    prompts = [random_ids(n, seed=n) for n in (150, 31, 90, 48, 5)]
    batch = generate_batch(pair, prompts, speckv=speckv, max_new_tokens=10)
    for prompt, row in zip(prompts, batch, strict=True):
        alone = generate(pair, prompt, speckv=speckv, max_new_tokens=10)
        assert row.output_ids == alone.output_ids
        if alone.kept_positions:
            assert row.kept_positions == alone.kept_positions


@pytest.mark.parametrize("positions", ["packed", "original"])
def test_specpc_rows_of_a_batch_equal_the_rows_alone(positions: str) -> None:
    pair = tiny_pair()
    specpc = SpecPCConfig(
        max_capacity_prompt=64,
        window_size=16,
        kernel_size=8,
        starting_layer_index=1,
        positions=positions,
        lookahead_tokens=3,
    )
    speckv = SpecKVConfig(max_capacity_prompt=32, window_size=8)  # looks ahead as far as SpecPC, also where that fits
    prompts = [random_ids(n, seed=n) for n in (150, 31, 90, 60)]
    batch = generate_batch(pair, prompts, specpc, speckv, max_new_tokens=8)
    for prompt, row in zip(prompts, batch, strict=True):
        alone = generate(pair, prompt, specpc, speckv, max_new_tokens=8)
        assert row.output_ids == alone.output_ids
        assert row.lookahead_ids == alone.lookahead_ids
        assert row.selected_positions == alone.selected_positions


def test_original_positions_are_what_the_target_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    seen: list[torch.Tensor] = []
    forward = pair.target.forward

    @functools.wraps(forward)
    def spy(*args: object, **kwargs: object) -> object:
        seen.append(kwargs["position_ids"])
        return forward(*args, **kwargs)

    monkeypatch.setattr(pair.target, "forward", spy)
    for positions in ("packed", "original"):
        specpc = SpecPCConfig(max_capacity_prompt=40, window_size=16, starting_layer_index=1, positions=positions)
        seen.clear()
        answer = generate(pair, random_ids(150), specpc, max_new_tokens=3)
        expected = answer.selected_positions if positions == "original" else list(range(40))
        assert seen[0][0].tolist() == expected
        assert seen[1][0].tolist() == [expected[-1] + 1]


def test_specpc_original_positions_of_everything_equal_dense() -> None:
    pair = tiny_pair()
    prompt = random_ids(80)
    dense = generate(pair, prompt, max_new_tokens=8)
    config = SpecPCConfig(max_capacity_prompt=80, window_size=16, positions="original")
    assert generate(pair, prompt, config, max_new_tokens=8).output_ids == dense.output_ids


@pytest.mark.parametrize("lookahead", ["draft", "none", "target"])
def test_each_lookahead_policy_scores_by_its_own_tokens(lookahead: str) -> None:
    pair, prompt = tiny_pair(), random_ids(120)
    config = SpecKVConfig(max_capacity_prompt=32, window_size=8, lookahead=lookahead, lookahead_tokens=5)
    answer = generate(pair, prompt, speckv=config, max_new_tokens=6)
    if lookahead == "none":
        assert answer.lookahead_ids == []
        return
    writer = pair.draft if lookahead == "draft" else None
    if writer is not None:
        assert answer.lookahead_ids == generate(ModelPair(target=writer), prompt, max_new_tokens=5).output_ids
    else:
        windowed = SpecKVConfig(max_capacity_prompt=32, window_size=8, lookahead="none")
        assert answer.lookahead_ids == generate(pair, prompt, speckv=windowed, max_new_tokens=5).output_ids


def lookahead_of(pair: ModelPair, tokens: int, **settings: object) -> list[int]:
    config = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=5, **settings)
    return generate(pair, random_ids(tokens), speckv=config, max_new_tokens=6).lookahead_ids


def test_by_default_the_draft_looks_ahead_and_where_it_cannot_the_target_itself() -> None:
    pair = tiny_pair()
    assert lookahead_of(pair, 120) == lookahead_of(pair, 120, lookahead="draft")
    alone = ModelPair(target=pair.target)
    assert lookahead_of(alone, 120) == lookahead_of(alone, 120, lookahead="target") != lookahead_of(pair, 120)
    other = tiny_tokenizer()
    other.add_tokens(["harbour"])
    foreign = ModelPair(draft=pair.draft, target=pair.target, tokenizer=pair.tokenizer, draft_tokenizer=other)
    assert lookahead_of(foreign, 120) == lookahead_of(alone, 120)


def test_by_default_the_target_looks_ahead_beyond_the_drafts_context_in_a_batch_too() -> None:
    whole = tiny_pair()
    short = tiny_model(seed=1, max_position_embeddings=100)
    pair = ModelPair(draft=short, target=whole.target)
    alone = ModelPair(target=whole.target)
    config = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=5)
    assert lookahead_of(pair, 96) == lookahead_of(whole, 96) != lookahead_of(alone, 96)
    assert lookahead_of(pair, 97) == lookahead_of(alone, 97) != lookahead_of(whole, 97)
    prompts = [random_ids(n) for n in (120, 96, 48, 30)]
    rows = generate_batch(pair, prompts, speckv=config, max_new_tokens=6)
    assert [row.lookahead_ids for row in rows] == [lookahead_of(alone, 120), lookahead_of(whole, 96), [], []]
    with pytest.raises(PromptTooLongError, match=r"draft takes 100: .*lookahead='auto'"):
        lookahead_of(pair, 97, lookahead="draft")


def test_by_default_nobody_looks_ahead_for_a_prompt_that_hardly_exceeds_its_capacity() -> None:
    pair = tiny_pair()
    steps: list[object] = []
    hook = pair.draft.register_forward_pre_hook(lambda *given: steps.append(given))
    assert lookahead_of(pair, 50) == []
    assert not steps, "the draft was not asked"
    assert len(lookahead_of(pair, 51)) == 5
    assert len(lookahead_of(pair, 50, lookahead="draft")) == 5
    hook.remove()


@pytest.mark.parametrize("with_draft", [True, False])
def test_a_row_that_does_without_look_ahead_alone_does_so_in_a_batch(with_draft: bool) -> None:
    pair = tiny_pair()
    pair = pair if with_draft else ModelPair(target=pair.target)
    config = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=5)
    prompts = [random_ids(n, seed=n) for n in (120, 48, 30)]
    for prompt, row in zip(prompts, generate_batch(pair, prompts, speckv=config, max_new_tokens=6), strict=True):
        alone = generate(pair, prompt, speckv=config, max_new_tokens=6)
        assert row.lookahead_ids == alone.lookahead_ids
        assert row.output_ids == alone.output_ids
        assert row.kept_positions == alone.kept_positions or not alone.kept_positions


@pytest.mark.parametrize(
    ("specpc_tokens", "speckv_tokens", "expected"), [(1, 3, 3), (6, 3, 3), (6, None, 6), (1, None, 9)]
)
def test_the_look_ahead_is_as_long_as_the_settings_say(
    specpc_tokens: int, speckv_tokens: int | None, expected: int
) -> None:
    pair, prompt = tiny_pair(), random_ids(120)
    pair.draft.generation_config.eos_token_id = None
    specpc = SpecPCConfig(max_capacity_prompt=80, window_size=8, starting_layer_index=1, lookahead_tokens=specpc_tokens)
    speckv = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=speckv_tokens)
    answer = generate(pair, prompt, specpc, speckv, max_new_tokens=9)
    written = generate(ModelPair(target=pair.draft), prompt, max_new_tokens=expected).output_ids
    assert answer.lookahead_ids == written


@pytest.mark.parametrize("lookahead", ["draft", "target"])
def test_a_look_ahead_ends_with_its_rows_end_token(lookahead: str) -> None:
    pair, prompts = tiny_pair(), [random_ids(n, seed=n) for n in (120, 100)]
    writer = pair.draft if lookahead == "draft" else pair.target
    writer.generation_config.eos_token_id = None
    config = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=6, lookahead=lookahead)
    whole = [answer.lookahead_ids for answer in generate_batch(pair, prompts, speckv=config, max_new_tokens=2)]
    end = next(token for token in whole[0] if token not in whole[1])
    writer.generation_config.eos_token_id = end
    ended = [answer.lookahead_ids for answer in generate_batch(pair, prompts, speckv=config, max_new_tokens=2)]
    assert ended == [whole[0][: whole[0].index(end) + 1], whole[1]]


def test_the_end_token_is_the_last_that_counts() -> None:
    written = torch.tensor([[5, 1, 7, 1], [5, 6, 7, 8], [2, 1, 1, 1]])
    assert until_end(written, [1, 2]).tolist() == [[True, True, False, False], [True] * 4, [True] + [False] * 3]
    assert until_end(written, []).all()


def test_adaptive_heads_share_the_layers_budget_unevenly() -> None:
    pair = target_only("llama")
    config = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead="none", head_budget="adaptive")
    answer = generate(pair, random_ids(200), speckv=config, max_new_tokens=4)
    sizes = [[len(head) for head in layer] for layer in answer.kept_positions]
    assert [sum(layer) for layer in sizes] == [80, 80, 80]
    assert any(layer[0] != layer[1] for layer in sizes)


def test_sparse_prefill_is_used_beyond_its_two_sizes_and_equals_dense_when_it_sees_all() -> None:
    pair, prompt = target_only("llama"), random_ids(160)
    dense = generate(pair, prompt, max_new_tokens=6)
    # 139 columns before the window and a band of 30 leave no key out for the last queries of a 160-token prompt
    whole = SpecKVConfig(
        max_capacity_prompt=None, window_size=20, lookahead="none", prefill_window_size=20, prefill_vertical_size=139
    )
    assert generate(pair, prompt, speckv=whole, max_new_tokens=6).output_ids == dense.output_ids
    narrow = SpecKVConfig(
        max_capacity_prompt=None, window_size=8, lookahead="none", prefill_window_size=8, prefill_vertical_size=8
    )
    assert generate(pair, prompt, speckv=narrow, max_new_tokens=6).output_ids != dense.output_ids


SPECKV = SpecKVConfig(max_capacity_prompt=48, window_size=8, lookahead_tokens=4)


def test_sampling_is_repeatable_by_its_seed_and_leaves_the_generators_alone() -> None:
    pair, prompt = tiny_pair(), random_ids(100)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    runs = [generate(pair, prompt, speckv=SPECKV, max_new_tokens=12, temperature=2.0, seed=s) for s in (1, 1, 2)]
    assert runs[0].output_ids == runs[1].output_ids
    assert runs[0].output_ids != runs[2].output_ids
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 5.0},
        {"eos_token_id": list(range(3, 300))},
        {"do_sample": True, "top_k": 1},
        {"min_new_tokens": 12},
        {"num_beams": 3},
    ],
)
def test_generation_options_act_on_the_pruned_cache_as_on_the_dense_one(options: dict) -> None:
    pair, prompt = tiny_pair(), random_ids(120)
    kept = SpecKVConfig(max_capacity_prompt=119, window_size=16, lookahead="none")
    dense = generate(pair, prompt, max_new_tokens=12, **options)
    assert generate(pair, prompt, speckv=kept, max_new_tokens=12, **options).output_ids == dense.output_ids


def test_max_time_ends_the_answer() -> None:
    answer = generate(tiny_pair(), random_ids(100), speckv=SPECKV, max_new_tokens=2000, max_time=0.3, eos_token_id=319)
    assert 0 < answer.completion_tokens < 2000


def text_pair() -> tuple[ModelPair, str, str]:
    """A pair, a prompt, and the text it goes on with."""
    pair = tiny_pair()
    prompt = "In the beginning " * 8
    return pair, prompt, generate(pair, prompt, max_new_tokens=40, eos_token_id=319).text


def test_a_stop_string_over_token_borders_ends_the_answer_before_it() -> None:
    pair, prompt, text = text_pair()
    stop = text[9:12]
    at = text.index(stop)
    answer = generate(pair, prompt, speckv=SPECKV, max_new_tokens=40, stop=stop, eos_token_id=319)
    unstopped = generate(pair, prompt, speckv=SPECKV, max_new_tokens=40, eos_token_id=319)
    expected = unstopped.text[: unstopped.text.index(stop)] if stop in unstopped.text else unstopped.text
    assert answer.text == expected
    dense = generate(pair, prompt, max_new_tokens=40, stop=[stop], eos_token_id=319)
    assert dense.text == text[:at]
    assert dense.finish_reason == "stop"


def test_a_stop_string_ends_the_generation_and_not_only_the_text() -> None:
    pair, prompt, text = text_pair()
    stop = re.findall(r"[!-~]{3}", text)[-1]
    stopped = generate(pair, prompt, max_new_tokens=40, stop=stop, eos_token_id=319)
    assert pair.require_tokenizer().decode(stopped.output_ids).endswith(stop)


class Clock:
    """Time that passes where a model runs, a second for each of its tokens, and nowhere else."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def passes_in(self, model: torch.nn.Module) -> None:
        def run(_: object, given: tuple[object, ...], arguments: dict[str, torch.Tensor]) -> None:
            self.seconds += arguments["input_ids"].shape[1]

        model.get_decoder().register_forward_pre_hook(run, with_kwargs=True)


@pytest.mark.parametrize("lookahead", ["draft", "target", "none"])
def test_the_seconds_are_those_of_the_look_ahead_the_prefill_and_the_decoding(
    lookahead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, pair = Clock(), tiny_pair()
    for model in (pair.draft, pair.target):
        model.generation_config.eos_token_id = None
        clock.passes_in(model)
    for module in (draft, decoding, stopping):
        monkeypatch.setattr(module, "time", clock)
    config = SpecKVConfig(
        max_capacity_prompt=40, window_size=8, lookahead=lookahead, lookahead_tokens=5, verify_lookahead=False
    )
    timings = generate(pair, random_ids(100), speckv=config, max_new_tokens=7).timings
    # the draft reads the prompt and writes five tokens, the last of which it does not read
    assert timings.draft_seconds == (104 if lookahead == "draft" else 0)
    # the target reads prompt and look-ahead, and the last prompt token again; where it looks ahead, the prompt twice
    own = 100 + 5 if lookahead == "target" else 0
    assert timings.prefill_seconds == 100 + (0 if lookahead == "none" else 5) + 1 + own
    assert timings.decode_seconds == 6
    assert timings.total_seconds == clock.seconds


def test_a_cancelled_batch_ends_and_says_so() -> None:
    pair = tiny_pair()
    cancelled = threading.Event()
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            cancelled.set()

    hook = pair.target.register_forward_pre_hook(count)
    prompts = [random_ids(40, seed=1), random_ids(50, seed=2)]
    answers = generate_batch(pair, prompts, max_new_tokens=500, eos_token_id=319, cancelled=cancelled)
    assert steps <= 4
    assert {answer.finish_reason for answer in answers} == {"cancelled"}
    steps = 4
    assert generate_batch(pair, prompts, max_new_tokens=5, cancelled=cancelled)[0].finish_reason == "cancelled"
    assert steps == 4, "what is cancelled before its turn runs no model"
    hook.remove()


def test_a_stream_gives_the_answers_text_and_its_answer() -> None:
    pair, prompt, text = text_pair()
    with stream(pair, prompt, max_new_tokens=40, eos_token_id=319) as pieces:
        assert "".join(pieces) == text
        assert pieces.answer.text == text
    stop = text[9:12]
    stopped = stream(pair, prompt, max_new_tokens=40, stop=stop, eos_token_id=319)
    assert "".join(stopped) == text[: text.index(stop)] == stopped.answer.text


def test_a_stream_that_was_read_stays_at_its_end() -> None:
    pieces = stream(tiny_pair(), random_ids(60), max_new_tokens=6)

    async def read() -> list[str]:
        return [piece async for piece in pieces]

    assert "".join(pieces) == pieces.answer.text
    assert (list(pieces), asyncio.run(read())) == ([], [])


def test_closing_a_stream_stops_the_generation_and_its_thread() -> None:
    pair, prompt, _ = text_pair()
    pieces = stream(pair, prompt, max_new_tokens=3000, eos_token_id=319)
    next(pieces)
    pieces.close(timeout_seconds=20)
    assert not any(thread.name == "spec-rag-stream" for thread in threading.enumerate())
    assert pair.lock.waiting == 0


def test_a_stream_forwards_the_workers_exception() -> None:
    pair = tiny_pair()
    with pytest.raises(PromptTooLongError, match="target takes 4096"):
        list(stream(pair, "x" * 5000, max_new_tokens=5))


def test_an_answer_is_never_made_from_the_cache_of_another_question() -> None:
    pair = tiny_pair()
    first, second = random_ids(120, seed=1), random_ids(120, seed=2)
    alone = generate(pair, second, speckv=SPECKV, max_new_tokens=8)
    generate(pair, first, speckv=SPECKV, max_new_tokens=8)
    assert generate(pair, second, speckv=SPECKV, max_new_tokens=8).output_ids == alone.output_ids


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda p: generate(p, random_ids(5000)), PromptTooLongError, "takes 4096"),
        (lambda p: generate(p, random_ids(5000), SpecPCConfig()), PromptTooLongError, "draft"),
        (lambda p: generate(p, random_ids(10), max_new_tokens=0), ConfigError, "max_new_tokens=0"),
        (lambda p: generate(p, ""), ConfigError, "empty"),
        (lambda p: generate("tiny", "Hi"), ConfigError, r"ModelPair.load\(target='tiny'\)"),
        (lambda p: generate(p.target, "Hi"), ConfigError, "of type LlamaForCausalLM: put it into a pair"),
        (lambda p: stream(p.target, "Hi"), ConfigError, "of type LlamaForCausalLM: put it into a pair"),
        (lambda p: score_prompt(5, "Hi"), ConfigError, "pair=5 of type int: give a pair"),
        (lambda p: generate(p, [[1, 2]]), ConfigError, "prompt of type list"),
        (lambda p: generate_batch(p, "one prompt"), ConfigError, "is a single string"),
        (lambda p: generate(p, random_ids(10), speckv={"window_size": 8}), ConfigError, "of type dict: give a SpecKV"),
        (lambda p: generate(p, random_ids(10), temperatur=1), ConfigError, "temperatur=1"),
        (lambda p: generate(p, random_ids(10), temperature=-1), ConfigError, "temperature=-1"),
        (lambda p: generate(p, random_ids(10), top_p=0), ConfigError, "top_p=0"),
        (lambda p: generate(p, random_ids(10), seed=-1), ConfigError, "seed=-1"),
        (lambda p: generate(p, random_ids(10), stop=[""]), ConfigError, "stop="),
        (lambda p: generate(p, random_ids(10), num_return_sequences=2), ConfigError, "num_return_sequences=2"),
        (lambda p: stream(p, random_ids(10), num_beams=2), ConfigError, "num_beams=2"),
        (lambda p: generate(ModelPair(draft=p.draft), random_ids(10)), ConfigError, "target=None"),
        (lambda p: generate(ModelPair(target=p.target), "text"), ConfigError, "tokenizer=None"),
        (
            lambda p: generate(ModelPair(target=p.target), random_ids(2000), speckv=SpecKVConfig(lookahead="draft")),
            ConfigError,
            "draft=None",
        ),
        (lambda p: SpecKVConfig(max_capacity_prompt=32, preset="paper"), ConfigError, "max_capacity_prompt=32"),
        (lambda p: SpecPCConfig(max_capacity_prompt=0), ConfigError, "max_capacity_prompt=0"),
        (lambda p: SpecKVConfig(kernel_size=4), ConfigError, "kernel_size=4"),
        (lambda p: SpecPCConfig(pool_type="median"), ConfigError, "pool_type='median'"),
        (lambda p: SpecPCConfig.from_dict({"window": 3}), ConfigError, "'window'"),
    ],
)
def test_bad_input_is_refused_with_its_name_and_value(call, error, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=says):
        call(tiny_pair())


def test_a_draft_with_another_tokenizer_is_refused_for_speckv(smollm2: ModelPair) -> None:
    tiny = tiny_pair()
    pair = ModelPair(
        draft=smollm2.draft, target=tiny.target, tokenizer=tiny.tokenizer, draft_tokenizer=smollm2.tokenizer
    )
    asked = SpecKVConfig(max_capacity_prompt=48, window_size=8, lookahead="draft")
    with pytest.raises(IncompatibleModelsError, match="different tokenizers"):
        generate(pair, random_ids(100), speckv=asked)
    own = SpecKVConfig(max_capacity_prompt=48, window_size=8, lookahead="target")
    assert generate(pair, random_ids(100), speckv=own, max_new_tokens=3).completion_tokens == 3


def test_specpc_looks_ahead_past_a_sliding_window() -> None:
    overrides = FAMILIES["gemma3_text"]
    draft = tiny_model("gemma3_text", seed=1, layers=3, **overrides)
    prompt = random_ids(200)
    configs = [SpecPCConfig(window_size=16, starting_layer_index=0, lookahead_tokens=n) for n in (1, 4)]
    first, longer = (score_prompt(ModelPair(draft=draft), prompt, config) for config in configs)
    assert longer.importance.shape == (200,)
    assert bool((longer.importance >= first.importance).all())
    assert bool((longer.importance > first.importance).any())
