"""SpecKVLLM by itself: complete, chat, their streams and their asynchronous twins."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from integrations.llama_index.helpers import Observed, Steps, strict_tokenizer
from integrations.tiny_llamas import tiny_llama
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.callbacks.llama_debug import LlamaDebugHandler
from llama_index.llms.spec_rag import KVDropEvent, SpecKVLLM
from llama_index.llms.spec_rag.settings import DraftedLLM
from threads import wait_for_no_stream_threads
from transformers import LlamaForCausalLM

from spec_rag import LoadOptions, SpecKVConfig, SpecPCConfig
from spec_rag.errors import ConfigError, IncompatibleModelsError, ModelNotFoundError, PromptTooLongError
from spec_rag.generation.model_settings import ModelSettings
from spec_rag.models.model_pair import ModelPair

PROMPT = "Where does the mule live, and who feeds it when the road is closed?"


def llm_of(pair: ModelPair, **settings: Any) -> SpecKVLLM:
    return SpecKVLLM(pair=pair, **{"max_tokens": 12, **settings})


async def _last(responses: AsyncIterator[Any]) -> Any:
    return [response async for response in responses][-1]


async def _every_way_to_complete(llm: SpecKVLLM, prompt: str, **arguments: Any) -> list[Any]:
    return [
        llm.complete(prompt, **arguments),
        list(llm.stream_complete(prompt, **arguments))[-1],
        await llm.acomplete(prompt, **arguments),
        await _last(await llm.astream_complete(prompt, **arguments)),
    ]


async def _every_way_to_chat(llm: SpecKVLLM, messages: list[ChatMessage], **arguments: Any) -> list[Any]:
    return [
        llm.chat(messages, **arguments),
        list(llm.stream_chat(messages, **arguments))[-1],
        await llm.achat(messages, **arguments),
        await _last(await llm.astream_chat(messages, **arguments)),
    ]


async def test_text_and_usage_are_the_same_however_it_is_called(pair: ModelPair, speckv: SpecKVConfig) -> None:
    llm = llm_of(pair, speckv=speckv)
    completions = await _every_way_to_complete(llm, PROMPT)
    chats = await _every_way_to_chat(llm, [ChatMessage(content=PROMPT)])
    assert len({response.text for response in completions}) == 1
    assert {response.message.content for response in chats} == {completions[0].text}
    usages = [response.raw["usage"] for response in completions + chats]
    assert usages == [usages[0]] * 8
    assert usages[0]["total_tokens"] == usages[0]["prompt_tokens"] + usages[0]["completion_tokens"]
    assert usages[0]["completion_tokens"] == 12


def test_the_prompt_is_not_echoed_and_deltas_add_up(pair: ModelPair) -> None:
    responses = list(llm_of(pair).stream_complete(PROMPT))
    assert "".join(response.delta for response in responses) == responses[-1].text
    assert not responses[-1].text.startswith(PROMPT[:5])
    assert [response.raw is None for response in responses] == [True] * (len(responses) - 1) + [False]


async def test_stop_strings_over_token_borders_end_every_kind_of_answer(pair: ModelPair) -> None:
    whole = llm_of(pair).complete(PROMPT).text
    stop = whole[4:7]
    expected = whole[: whole.index(stop)]
    llm = llm_of(pair)
    answers = await _every_way_to_complete(llm, PROMPT, stop=[stop])
    answers += await _every_way_to_complete(llm_of(pair, stop=stop), PROMPT)
    assert [answer.text for answer in answers] == [expected] * 8
    assert {answer.raw["finish_reason"] for answer in answers} == {"stop"}
    chats = await _every_way_to_chat(llm, [ChatMessage(content=PROMPT)], stop=stop)
    assert [chat.message.content for chat in chats] == [expected] * 4
    streamed = "".join(response.delta for response in llm.stream_complete(PROMPT, stop=[stop]))
    assert streamed == expected, "no part of a stop string may be streamed"


async def test_call_arguments_win_over_the_fields(pair: ModelPair) -> None:
    llm = llm_of(pair)
    assert [r.raw["usage"]["completion_tokens"] for r in await _every_way_to_complete(llm, PROMPT, max_tokens=3)] == [
        3
    ] * 4
    greedy = llm.complete(PROMPT).text
    sampled = await _every_way_to_complete(llm, PROMPT, temperature=3.0, seed=5)
    assert len({response.text for response in sampled}) == 1
    assert sampled[0].text != greedy
    assert llm.complete(PROMPT, temperature=3.0, seed=6).text != sampled[0].text
    assert llm.complete(PROMPT, temperature=None, max_tokens=None).text == greedy
    assert llm_of(pair, temperature=3.0, seed=5).complete(PROMPT).text == sampled[0].text
    pruned = llm.complete(PROMPT, speckv={"max_capacity_prompt": 32, "window_size": 8})
    assert pruned.raw["speckv"]["kv_bytes_kept"] < pruned.raw["speckv"]["kv_bytes_dense"]


def test_an_unknown_call_argument_is_refused_before_anything_runs(pair: ModelPair, steps: Steps) -> None:
    llm = llm_of(pair)
    for call in (llm.complete, llm.stream_complete):
        with pytest.raises(ConfigError, match="temprature"):
            call(PROMPT, temprature=0.3)
        with pytest.raises(ConfigError, match="max_new_tokens=0"):
            call(PROMPT, max_tokens=0)
    assert steps.count == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temprature": 0.3}, "temprature"),
        ({"temperature": -1}, "temperature=-1"),
        ({"top_p": 2}, "top_p=2"),
        ({"stop": [""]}, "stop="),
        ({"speckv": {"capacity": 9}}, "no field 'capacity'"),
        ({"speckv": {"max_capacity_prompt": 8, "window_size": 32}}, "max_capacity_prompt=8"),
        ({"target_options": {"dtyp": "float32"}}, "no field 'dtyp'"),
        ({"generation_kwargs": {"max_length": 5}}, "max_length=5"),
        ({"pair": "tiny"}, "give a spec_rag.ModelPair"),
    ],
)
def test_a_bad_setting_is_refused_where_it_is_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpecKVLLM(**settings)


def test_a_chat_goes_through_the_template_with_one_opening_token(pair: ModelPair) -> None:
    messages = [
        ChatMessage(role=MessageRole.SYSTEM, content="Be short."),
        ChatMessage(role=MessageRole.USER, content="Hello."),
        ChatMessage(role=MessageRole.ASSISTANT, content="Hi."),
        ChatMessage(role=MessageRole.USER, content=PROMPT),
    ]
    assert pair.tokenizer is not None
    plain = [{"role": m.role.value, "content": m.content} for m in messages]
    expected = pair.tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert expected.count(pair.tokenizer.bos_token_id) == 1
    assert llm_of(pair).chat(messages).raw["usage"]["prompt_tokens"] == len(expected)


@pytest.mark.parametrize("spelled", ["", "<s>"])
def test_a_prompt_function_of_the_users_own_gets_one_opening_token(pair: ModelPair, spelled: str) -> None:
    llm = llm_of(
        pair,
        messages_to_prompt=lambda messages: f"{spelled}<|im_start|>{messages[0].content}<|im_end|>",
        completion_to_prompt=lambda prompt: f"{spelled}<|im_start|>{prompt}<|im_end|>",
    )
    tokens = len(PROMPT) + 3
    assert llm.chat([ChatMessage(content=PROMPT)]).raw["usage"]["prompt_tokens"] == tokens
    assert llm.complete(PROMPT).raw["usage"]["prompt_tokens"] == tokens


def test_special_tokens_inside_a_message_stay_text(pair: ModelPair) -> None:
    llm = llm_of(pair)
    harmless = llm.chat([ChatMessage(content="x" * len("<|im_end|>"))])
    spelled = llm.chat([ChatMessage(content="<|im_end|>")])
    assert spelled.raw["usage"]["prompt_tokens"] == harmless.raw["usage"]["prompt_tokens"]


def test_consecutive_turns_of_one_role_and_a_last_turn_of_the_assistant_are_read(pair: ModelPair) -> None:
    llm = llm_of(pair)
    several = [ChatMessage(content="one"), ChatMessage(content="two")]
    assert llm.chat(several).raw["usage"] == llm.chat([ChatMessage(content="one\n\ntwo")]).raw["usage"]
    assert llm.chat([ChatMessage(content="one"), ChatMessage(role="assistant", content="two")]).raw["usage"]
    assert llm.chat([ChatMessage(content="one"), ChatMessage(role="tool", content="two")]).raw["usage"]


def test_what_a_text_model_cannot_read_is_refused(pair: ModelPair) -> None:
    with pytest.raises(ValueError, match="image block"):
        llm_of(pair).chat([ChatMessage(blocks=[ImageBlock(image=b"\x89PNG")])])
    with pytest.raises(ValueError, match="at least one message"):
        llm_of(pair).chat([])


def test_a_formatted_prompt_is_read_as_it_stands(pair: ModelPair, plain_pair: ModelPair) -> None:
    formatted = llm_of(pair).complete(PROMPT, formatted=True)
    assert formatted.raw["usage"]["prompt_tokens"] == len(PROMPT) + 1
    assert formatted.raw["usage"]["prompt_tokens"] < llm_of(pair).complete(PROMPT).raw["usage"]["prompt_tokens"]
    assert llm_of(plain_pair).complete(PROMPT).text == formatted.text


def test_metadata_says_what_the_models_are(pair: ModelPair, plain_pair: ModelPair) -> None:
    metadata = llm_of(pair).metadata
    assert (metadata.is_chat_model, metadata.model_name) == (True, "tiny-target")
    assert (metadata.context_window, metadata.num_output) == (8192, 12)
    assert llm_of(plain_pair).metadata.is_chat_model is False
    assert llm_of(pair, context_window=500).metadata.context_window == 500
    narrow = ModelPair(
        draft=tiny_llama(LlamaForCausalLM, 1, strict_tokenizer(), 256), target=pair.target, tokenizer=pair.tokenizer
    )
    by_draft = SpecKVConfig(lookahead="draft")
    assert llm_of(narrow, speckv=by_draft).metadata.context_window == 256, "the draft reads the prompt too"
    assert llm_of(narrow).metadata.context_window == 8192, "beyond it the target looks ahead itself"
    assert llm_of(narrow, speckv=None).metadata.context_window == 8192


def test_raw_holds_plain_numbers_and_keeps_no_tensor_alive(pair: ModelPair, speckv: SpecKVConfig) -> None:
    raw = llm_of(pair, speckv=speckv).complete(PROMPT).raw
    assert json.loads(json.dumps(raw)) == raw
    assert all(isinstance(value, int | float) for part in ("usage", "speckv") for value in raw[part].values())
    assert raw["speckv"]["lookahead_tokens"] == 4


@pytest.mark.parametrize("how", ["acomplete", "achat", "astream_complete", "astream_chat"])
async def test_the_event_loop_goes_on_while_the_model_works(pair: ModelPair, steps: Steps, how: str) -> None:
    released = threading.Event()
    waited: list[bool] = []
    steps.before_each = lambda: waited.append(released.wait(timeout=10))

    async def release() -> None:
        while not steps.count:
            await asyncio.sleep(0.001)
        released.set()

    async def ask() -> None:
        prompt: Any = PROMPT if "complete" in how else [ChatMessage(content=PROMPT)]
        answer = await getattr(llm_of(pair, max_tokens=2), how)(prompt)
        if "stream" in how:
            await _last(answer)

    await asyncio.gather(ask(), release())
    assert waited
    assert all(waited), "the event loop stood still while the model worked"


def _talkative(pair: ModelPair, steps: Steps) -> SpecKVLLM:
    """Writes words for seconds; its debug handler keeps every exception, and so every frame, alive."""
    steps.seconds = 0.01
    keeping = CallbackManager([LlamaDebugHandler(print_trace_on_end=False)])
    return llm_of(pair, max_tokens=300, temperature=9.0, seed=1, callback_manager=keeping)


@pytest.mark.parametrize("how", ["stream_complete", "stream_chat"])
def test_closing_a_stream_stops_within_two_tokens(pair: ModelPair, steps: Steps, observed: Observed, how: str) -> None:
    llm = _talkative(pair, steps)
    responses = getattr(llm, how)(PROMPT if "complete" in how else [ChatMessage(content=PROMPT)])
    next(responses), next(responses)
    responses.close()
    at_close = steps.count
    wait_for_no_stream_threads()
    assert steps.count - at_close <= 2
    assert at_close < 100


@pytest.mark.parametrize("how", ["astream_complete", "astream_chat"])
async def test_closing_an_async_stream_stops_within_two_tokens(
    pair: ModelPair, steps: Steps, observed: Observed, how: str
) -> None:
    llm = _talkative(pair, steps)
    responses = await getattr(llm, how)(PROMPT if "complete" in how else [ChatMessage(content=PROMPT)])
    await responses.__anext__()
    await responses.aclose()
    at_close = steps.count
    await asyncio.to_thread(wait_for_no_stream_threads)
    assert steps.count - at_close <= 2
    assert at_close < 100


@pytest.mark.parametrize("how", ["acomplete", "astream_chat"])
async def test_cancelling_a_task_stops_within_two_tokens(pair: ModelPair, steps: Steps, how: str) -> None:
    steps.seconds = 0.01

    async def ask() -> None:
        if how == "acomplete":
            await llm_of(pair, max_tokens=300).acomplete(PROMPT)
        else:
            await _last(await llm_of(pair, max_tokens=300).astream_chat([ChatMessage(content=PROMPT)]))

    task = asyncio.create_task(ask())
    while steps.count < 3:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    at_cancel = steps.count
    await asyncio.sleep(0.3)
    assert steps.count - at_cancel <= 2


def test_a_stream_that_nobody_reads_costs_nothing(pair: ModelPair, steps: Steps) -> None:
    llm_of(pair).stream_complete(PROMPT)
    assert steps.count == 0


async def test_errors_reach_the_caller_of_every_kind(pair: ModelPair) -> None:
    narrow = ModelPair(
        draft=None, target=tiny_llama(LlamaForCausalLM, 3, strict_tokenizer(), 64), tokenizer=pair.tokenizer
    )
    llm = llm_of(narrow, speckv=None)
    with pytest.raises(PromptTooLongError):
        llm.complete("x" * 80)
    with pytest.raises(PromptTooLongError):
        list(llm.stream_complete("x" * 80))
    with pytest.raises(PromptTooLongError):
        await llm.achat([ChatMessage(content="x" * 80)])
    with pytest.raises(PromptTooLongError):
        await _last(await llm.astream_chat([ChatMessage(content="x" * 80)]))
    assert llm.complete("x").text, "an error leaves the models usable"


def test_threads_and_event_loops_share_one_llm(pair: ModelPair, speckv: SpecKVConfig) -> None:
    llm = llm_of(pair, max_tokens=6, speckv=speckv)
    prompts = [f"{PROMPT} Number {i}." for i in range(8)]
    expected = [llm.complete(prompt).text for prompt in prompts]

    async def many() -> list[str]:
        async def streamed(prompt: str) -> str:
            return str((await _last(await llm.astream_complete(prompt))).text)

        async def completed(prompt: str) -> str:
            return (await llm.acomplete(prompt)).text

        return await asyncio.gather(*(streamed(p) if i % 2 else completed(p) for i, p in enumerate(prompts)))

    with ThreadPoolExecutor(6) as threads:
        loops = [threads.submit(asyncio.run, many()) for _ in range(2)]
        completed = list(threads.map(lambda prompt: llm.complete(prompt).text, prompts))
        streamed = list(threads.map(lambda prompt: list(llm.stream_complete(prompt))[-1].text, prompts))
    assert completed == streamed == expected
    assert [loop.result() for loop in loops] == [expected] * 2


async def test_the_token_counter_reads_the_true_numbers(pair: ModelPair) -> None:
    def no_estimate(text: str) -> list[str]:
        raise AssertionError("the counter had to estimate")

    counter = TokenCountingHandler(tokenizer=no_estimate)
    llm = llm_of(pair, callback_manager=CallbackManager([counter]))
    answers = await _every_way_to_complete(llm, PROMPT)
    answers += await _every_way_to_chat(llm, [ChatMessage(content=PROMPT)])
    assert counter.total_llm_token_count == sum(answer.raw["usage"]["total_tokens"] for answer in answers)
    assert counter.completion_llm_token_count == 8 * 12


async def test_instrumentation_sees_spans_and_what_was_dropped(
    pair: ModelPair, speckv: SpecKVConfig, observed: Observed
) -> None:
    llm = llm_of(pair, speckv=speckv)
    await _every_way_to_complete(llm, PROMPT)
    await _every_way_to_chat(llm, [ChatMessage(content=PROMPT)])
    spans = {span.id_ for span in observed.completed_spans}
    names = {span.split("-")[0].removeprefix("SpecKVLLM.") for span in spans if span.startswith("SpecKVLLM.")}
    assert names >= {
        *("complete", "acomplete", "stream_complete", "astream_complete"),
        *("chat", "achat", "stream_chat", "astream_chat"),
    }
    drops = observed.of(KVDropEvent)
    assert len(drops) == 8
    assert all(0 < drop.kv_bytes_kept < drop.kv_bytes_dense for drop in drops)
    assert all(drop.span_id in spans for drop in drops)
    assert (drops[0].draft, drops[0].target) == ("tiny-draft", "tiny-target")
    assert json.dumps(drops[0].model_dump(mode="json"))


def test_nothing_dropped_is_no_event(pair: ModelPair, observed: Observed) -> None:
    llm_of(pair).complete(PROMPT)
    assert observed.of(KVDropEvent) == []


def test_specpc_shortens_what_the_target_reads(pair: ModelPair, observed: Observed) -> None:
    specpc = SpecPCConfig(max_capacity_prompt=32, window_size=8, kernel_size=4, starting_layer_index=0, unit="token")
    raw = llm_of(pair, specpc=specpc, speckv=None).complete(PROMPT).raw
    assert raw["speckv"]["target_prompt_tokens"] == 32 < raw["usage"]["prompt_tokens"]
    assert len(observed.of(KVDropEvent)) == 1


def test_settings_survive_serialisation_without_weights(pair: ModelPair) -> None:
    llm = llm_of(
        pair,
        specpc=SpecPCConfig(max_capacity_prompt=77, window_size=8, starting_layer_index=0, unit="token"),
        speckv={"max_capacity_prompt": 64, "preset": "paper"},
        temperature=0.5,
        seed=3,
        stop="###",
        target_options={"dtype": "bfloat16", "device": "cpu"},
        generation_kwargs={"min_new_tokens": 2},
    )
    back = SpecKVLLM.from_json(llm.to_json())
    assert back.to_dict() == llm.to_dict()
    assert back.specpc == llm.specpc
    assert back.speckv == SpecKVConfig(max_capacity_prompt=64, preset="paper")
    assert (back.target, back.draft, back.class_name()) == ("tiny-target", "tiny-draft", "SpecKVLLM")
    assert len(llm.to_json()) < 2000
    with_models = SpecKVLLM.from_dict(llm.to_dict(), pair=pair)
    assert with_models.complete(PROMPT).text == llm.complete(PROMPT).text


def test_a_serialised_llm_cannot_switch_on_foreign_code() -> None:
    data = SpecKVLLM(target_options={"trust_remote_code": True}).to_dict()
    with pytest.raises(ValueError, match="trust_remote_code"):
        SpecKVLLM.from_dict(data)
    trusting = SpecKVLLM.from_dict(data, target_options={"trust_remote_code": True})
    assert trusting.target_options == LoadOptions(trust_remote_code=True)


def test_the_payload_names_draft_and_budget_and_loads_nothing() -> None:
    payload = SpecKVLLM(target="/no/such/model", draft="/no/such/draft").to_payload()
    assert payload["draft"] == "/no/such/draft"
    assert payload["speckv"]["max_capacity_prompt"] == 1024
    assert payload["model_name"] == "/no/such/model"
    assert json.dumps(payload)


async def test_a_model_that_does_not_exist_is_a_clear_error_when_used() -> None:
    llm = SpecKVLLM(target="/no/such/model.gguf", draft=None)
    with pytest.raises(ModelNotFoundError, match="/no/such/model"):
        llm.complete(PROMPT)
    with pytest.raises(ModelNotFoundError, match="/no/such/model"):
        await llm.astream_chat([ChatMessage(content=PROMPT)])


def test_llms_of_the_same_names_share_their_weights(pair: ModelPair, tmp_path: Any) -> None:
    assert pair.target is not None
    assert pair.tokenizer is not None
    pair.target.save_pretrained(tmp_path)
    pair.tokenizer.save_pretrained(tmp_path)
    first, second = (SpecKVLLM(target=tmp_path, draft=tmp_path, max_tokens=n) for n in (3, 4))
    assert first.load().target is second.load().target is second.load().draft
    assert first.complete(PROMPT).text == llm_of(pair, max_tokens=3).complete(PROMPT).text


@pytest.mark.parametrize("options", [{"top_p": 0.99}, {"top_k": 20}, {"temperature": 1.5}])
def test_what_only_sampling_knows_samples_wherever_it_is_given(pair: ModelPair, options: dict[str, Any]) -> None:
    greedy = llm_of(pair).complete(PROMPT).text
    assert llm_of(pair).temperature is None
    of_fields = [llm_of(pair, **options, seed=seed).complete(PROMPT).text for seed in (1, 1, 2)]
    of_calls = [llm_of(pair).complete(PROMPT, **options, seed=seed).text for seed in (1, 1, 2)]
    assert of_fields == of_calls
    assert of_fields[0] == of_fields[1]
    assert len({greedy, *of_fields}) == 3


def test_a_calls_temperature_of_zero_is_greedy_whatever_the_fields_say(pair: ModelPair) -> None:
    llm = llm_of(pair, top_p=0.9, top_k=20, temperature=2.0)
    assert llm.complete(PROMPT, temperature=0).text == llm_of(pair).complete(PROMPT).text
    assert llm_of(pair, temperature=0, top_k=20).complete(PROMPT).text == llm_of(pair).complete(PROMPT).text


def test_a_model_that_is_its_own_draft_is_loaded_once_whatever_its_options(pair: ModelPair, tmp_path: Path) -> None:
    assert pair.target is not None
    assert pair.tokenizer is not None
    pair.target.save_pretrained(tmp_path)
    pair.tokenizer.save_pretrained(tmp_path)
    loaded = SpecKVLLM(target=tmp_path, draft=tmp_path, target_options={"dtype": "bfloat16"}).load()
    assert loaded.draft is loaded.target
    assert loaded.target.dtype == torch.bfloat16


def test_a_misspelt_setting_is_answered_with_the_near_one() -> None:
    with pytest.raises(ValueError, match="no field 'temprature': did you mean 'temperature'"):
        SpecKVLLM(temprature=0.3)


def test_every_field_is_described() -> None:
    own = {*ModelSettings.model_fields, *DraftedLLM.__annotations__} & SpecKVLLM.model_fields.keys()
    assert {"target", "speckv", "timeout", "context_window"} <= own
    assert [name for name in own if not SpecKVLLM.model_fields[name].description] == []


def test_a_draft_of_another_family_answers_long_prompts_or_is_refused_at_once(pair: ModelPair, tmp_path: Path) -> None:
    assert pair.target is not None
    other = strict_tokenizer()
    other.add_tokens(["mule"])
    for name, tokenizer in (("target", strict_tokenizer()), ("draft", other)):
        pair.target.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    names = {"target": tmp_path / "target", "draft": tmp_path / "draft", "max_tokens": 4}
    assert SpecKVLLM(**names).complete(PROMPT * 40).text
    with pytest.raises(IncompatibleModelsError, match="different tokenizers"):
        SpecKVLLM(**names, specpc=SpecPCConfig()).load()


@pytest.mark.parametrize("beams", [2, 3])
async def test_beams_answer_alone_and_side_by_side(pair: ModelPair, speckv: SpecKVConfig, beams: int) -> None:
    llm = llm_of(pair, speckv=speckv, generation_kwargs={"num_beams": beams})
    alone = [llm.complete(prompt).text for prompt in (PROMPT, "Who feeds the mule?")]
    found = await asyncio.gather(llm.acomplete(PROMPT), llm.acomplete("Who feeds the mule?"))
    assert [answer.text for answer in found] == alone
    assert llm.chat([ChatMessage(role="user", content=PROMPT)]).message.content is not None


def test_a_message_whose_keywords_are_nested_too_deeply_is_refused(pair: ModelPair) -> None:
    nested: Any = []
    for _ in range(5000):
        nested = [nested]
    message = ChatMessage(role=MessageRole.ASSISTANT, content="Yes.")
    message.additional_kwargs["tool_calls"] = nested
    with pytest.raises(ConfigError, match="a assistant message is nested more than"):
        SpecKVLLM(pair=pair).chat([ChatMessage("Who?"), message, ChatMessage("Why?")])
