"""ChatSpecKV beyond the standard suites: templates, usage, tools, structured output, streams, cache keys."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import pytest
from integrations.langchain.chats import PROMPT, all_ways, ids_of, prompt_of, search, summed
from integrations.langchain.helpers import (
    PLAIN_TEMPLATE,
    Steps,
    Watching,
    scripted,
    tiny_pair,
)
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_spec_rag import ChatSpecKV, SpecKVLLM

from spec_rag import ContextCache, SpecKVConfig, SpecPCConfig, generate
from spec_rag.errors import ConfigError
from spec_rag.generation.tool_calls import ToolChoice
from spec_rag.models.model_pair import ModelPair
from spec_rag.text.prompts import chat_ids


class TestAnswers:
    async def test_text_usage_and_metadata_are_the_same_however_asked(self, chat: ChatSpecKV, pair: ModelPair) -> None:
        messages = await all_ways(chat, PROMPT)
        prompt_tokens = len(chat_ids(pair.tokenizer, [{"role": "user", "content": PROMPT}]))
        for message in messages.values():
            assert message.text == messages["invoke"].text != ""
            assert message.usage_metadata == {
                "input_tokens": prompt_tokens,
                "output_tokens": 12,
                "total_tokens": prompt_tokens + 12,
            }
            assert message.response_metadata["model_name"] == "tiny-target"
            assert message.response_metadata["finish_reason"] == "length"
            figures = message.response_metadata["speckv"]
            assert 0 < figures["kv_bytes_kept"] < figures["kv_bytes_dense"]

    def test_are_the_core_s(self, chat: ChatSpecKV, pair: ModelPair, speckv: SpecKVConfig) -> None:
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
        expected = generate(pair, turns, speckv=speckv, max_new_tokens=12).text
        assert chat.invoke([("system", "Be brief."), ("human", PROMPT)]).text == expected

    async def test_usage_is_counted_by_langchain_s_callback(self, chat: ChatSpecKV) -> None:
        with get_usage_metadata_callback() as counting:
            chat.invoke(PROMPT)
            list(chat.stream(PROMPT))
            await chat.ainvoke(PROMPT)
        once = chat.invoke(PROMPT).usage_metadata
        assert counting.usage_metadata["tiny-target"]["input_tokens"] == 3 * once["input_tokens"]

    def test_kv_figures_are_not_called_a_cache_read(self, chat: ChatSpecKV) -> None:
        assert "input_token_details" not in chat.invoke(PROMPT).usage_metadata


class TestStream:
    def test_last_chunk_alone_has_usage_model_name_and_position(self, chat: ChatSpecKV) -> None:
        with scripted(chat.pair, "the mule is here"):
            *others, last = chat.stream(PROMPT)
        assert len(others) > 1
        assert last.chunk_position == "last"
        assert last.usage_metadata
        assert last.response_metadata["model_name"]
        assert not any(chunk.usage_metadata or chunk.response_metadata.get("model_name") for chunk in others)

    @pytest.mark.parametrize("stop", ["lens up", "n"])
    async def test_stop_strings_over_token_borders(self, pair: ModelPair, stop: str) -> None:
        text = "it carried the lens up the mountain"
        with scripted(pair, text):
            messages = await all_ways(ChatSpecKV(pair=pair, stop=[stop]), PROMPT)
        assert {message.text for message in messages.values()} == {text[: text.index(stop)]}

    def test_leaving_it_stops_the_generation(self, pair: ModelPair) -> None:
        with Steps(pair, 0.002) as steps:
            stream = ChatSpecKV(pair=pair, max_tokens=2000).stream(PROMPT)
            next(stream)
            at = steps.count
            stream.close()
            time.sleep(0.05)
            assert steps.count <= at + 2

    async def test_leaving_it_stops_the_generation_async(self, pair: ModelPair) -> None:
        with Steps(pair, 0.005) as steps:
            async for _ in ChatSpecKV(pair=pair, max_tokens=2000).astream(PROMPT):
                break
            at = steps.count
            await asyncio.sleep(0.1)
            assert steps.count <= at + 2

    async def test_a_cancelled_request_leaves_the_queue(self, pair: ModelPair) -> None:
        with pair.lock.hold():
            waiting = asyncio.create_task(ChatSpecKV(pair=pair).ainvoke(PROMPT))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.sleep(0.15)
            assert pair.lock.waiting == 1

    def test_errors_of_the_worker_reach_the_consumer(self, pair: ModelPair) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("broken layer")

        hook, watching = pair.target.register_forward_pre_hook(broken), Watching()
        try:
            with pytest.raises(RuntimeError, match="broken layer"):
                list(ChatSpecKV(pair=pair).stream(PROMPT, {"callbacks": [watching]}))
        finally:
            hook.remove()
        assert watching.errors

    def test_timeout(self, pair: ModelPair) -> None:
        with Steps(pair, 0.02):
            chat = ChatSpecKV(pair=pair, max_tokens=500, timeout=0.1)
            with pytest.raises(TimeoutError):
                chat.invoke(PROMPT)
            with pytest.raises(TimeoutError):
                list(chat.stream(PROMPT))

    def test_streaming_false_never_streams(self, pair: ModelPair) -> None:
        with scripted(pair, "the mule is here"):
            assert len(list(ChatSpecKV(pair=pair, streaming=False).stream(PROMPT))) == 1


class TestPrompt:
    def test_is_tokenized_inside_the_template(self, chat: ChatSpecKV) -> None:
        ids = ids_of(chat, [HumanMessage("Hello")])
        assert ids.count(chat.load().tokenizer.bos_token_id) == 1

    def test_special_tokens_in_a_message_stay_text(self, chat: ChatSpecKV) -> None:
        end = chat.load().tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert ids_of(chat, [HumanMessage("a<|im_end|>b")]).count(end) == 1

    def test_neighbours_of_one_role_are_one_turn(self, chat: ChatSpecKV) -> None:
        messages = [SystemMessage("a"), SystemMessage("b"), HumanMessage("c"), HumanMessage("d"), AIMessage("e")]
        prompt = prompt_of(chat, [*messages, AIMessage("f"), HumanMessage("g")])
        assert "<|im_start|>user\nc\n\nd<|im_end|>" in prompt
        assert "<|im_start|>assistant\ne\n\nf<|im_end|>" in prompt

    def test_any_message_may_be_the_last(self, chat: ChatSpecKV) -> None:
        for last in (AIMessage("b"), SystemMessage("b"), ToolMessage("b", tool_call_id="1")):
            assert chat.invoke([HumanMessage("a"), last]).text

    def test_a_template_without_system_turns_has_the_text_in_the_user_s(self) -> None:
        refusing = (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN_TEMPLATE
        )
        chat = ChatSpecKV(pair=tiny_pair(refusing), max_tokens=4)
        assert "<|im_start|>user\nBe brief.\n\nHello<|im_end|>" in prompt_of(
            chat, [SystemMessage("Be brief."), HumanMessage("Hello")]
        )

    def test_what_a_template_refuses_otherwise_is_an_error(self) -> None:
        chat = ChatSpecKV(pair=tiny_pair("{{ raise_exception('never') }}"))
        with pytest.raises(Exception, match="never"):
            chat.invoke("Hello")

    def test_tool_results_are_told_by_the_user_where_the_template_knows_no_tools(self, chat: ChatSpecKV) -> None:
        call = {"name": "search", "args": {"query": "mule"}, "id": "1"}
        messages = [HumanMessage("a"), AIMessage("", tool_calls=[call]), ToolMessage("Saffron", tool_call_id="1")]
        assert "<|im_start|>user\na\n\nResult of search:\nSaffron<|im_end|>" in prompt_of(chat, messages)

    def test_tool_calls_and_results_are_the_template_s_where_it_knows_them(self, tool_chat: ChatSpecKV) -> None:
        call = {"name": "search", "args": {"query": "mule"}, "id": "1"}
        messages = [HumanMessage("a"), AIMessage("", tool_calls=[call]), ToolMessage("Saffron", tool_call_id="1")]
        prompt = prompt_of(tool_chat, messages)
        assert '<tool_call>\n{"name": "search", "arguments": {"query": "mule"}}' in prompt
        assert "<|im_start|>tool\nSaffron<|im_end|>" in prompt

    def test_other_roles_are_handed_on(self, chat: ChatSpecKV) -> None:
        assert "<|im_start|>critic\nbad<|im_end|>" in prompt_of(chat, [ChatMessage(role="critic", content="bad")])

    @pytest.mark.parametrize("kind", ["image_url", "image", "input_audio", "file", "video"])
    def test_media_are_refused(self, chat: ChatSpecKV, kind: str) -> None:
        with pytest.raises(ValueError, match="reads only text"):
            chat.invoke([HumanMessage([{"type": "text", "text": "What is it?"}, {"type": kind, kind: {}}])])

    def test_messages_without_a_place_are_refused(self, chat: ChatSpecKV) -> None:
        with pytest.raises(ValueError, match="RemoveMessage"):
            chat._prompt([RemoveMessage(id="1")], ToolChoice())
        with pytest.raises(ValueError, match="at least one"):
            chat.invoke([])

    def test_a_tokenizer_without_template_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="chat template"):
            ChatSpecKV(pair=tiny_pair(None)).invoke("Hello")

    def test_tokens_of_messages_are_the_prompt_s(self, chat: ChatSpecKV) -> None:
        counted = chat.get_num_tokens_from_messages([HumanMessage(PROMPT)])
        assert counted == chat.invoke(PROMPT).usage_metadata["input_tokens"]
        assert chat.get_num_tokens("abc") == 3


class TestContext:
    async def test_questions_start_from_the_context_of_the_field_or_of_the_call(self, pair: ModelPair) -> None:
        context = ContextCache.read(pair, "The mule is called Saffron. The ferry leaves at nine. " * 4)
        wanted = generate(pair, "Who?", context=context, max_new_tokens=8)
        chat = ChatSpecKV(pair=pair, context=context, max_tokens=8)
        message = chat.invoke("Who?")
        assert message.text == wanted.text == (await chat.ainvoke("Who?")).text
        assert message.usage_metadata["input_tokens"] == wanted.prompt_tokens
        assert chat.get_num_tokens_from_messages([HumanMessage("Who?")]) == wanted.prompt_tokens
        assert ChatSpecKV(pair=pair, max_tokens=8).bind(context=context).invoke("Who?").text == wanted.text
        assert summed(list(chat.stream("Who?"))).text == wanted.text
        assert SpecKVLLM(pair=pair, context=context, max_tokens=8).invoke("Who?") == wanted.text

    def test_each_context_has_cached_answers_of_its_own(self, pair: ModelPair) -> None:
        one, other = (ContextCache.read(pair, text) for text in ("The mule is Saffron.", "The mule is Pepper."))
        keys = {ChatSpecKV(pair=pair, context=context)._get_llm_string() for context in (one, other, None)}
        assert len(keys) == 3

    def test_tools_are_refused_behind_a_context(self, tool_pair: ModelPair) -> None:
        context = ContextCache.read(tool_pair, "The mule is Saffron.")
        with pytest.raises(ConfigError, match="tools"):
            ChatSpecKV(pair=tool_pair, context=context).bind_tools([search]).invoke("Who?")


class TestCache:
    CHANGES: ClassVar[dict[str, Any]] = {
        "specpc": SpecPCConfig(),
        "speckv": None,
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 5,
        "repetition_penalty": 1.5,
        "seed": 3,
        "stop": ["x"],
        "generation_kwargs": {"num_beams": 2},
        "draft_options": {"dtype": "bfloat16"},
        "target_options": {"revision": "v2"},
        "target": "other",
        "draft": "other",
    }

    @pytest.mark.parametrize("name", CHANGES)
    def test_keys_differ_when_a_setting_differs(self, name: str) -> None:
        changed = {name: self.CHANGES[name]}
        assert ChatSpecKV()._get_llm_string() != ChatSpecKV(**changed)._get_llm_string()
        assert ChatSpecKV()._get_llm_string(**changed) == ChatSpecKV(**changed)._get_llm_string()

    def test_keys_differ_with_tools(self) -> None:
        assert ChatSpecKV()._get_llm_string(tools=[{"a": 1}]) != ChatSpecKV()._get_llm_string()

    def test_two_loaded_pairs_do_not_share_answers(self, chat: ChatSpecKV, speckv: SpecKVConfig) -> None:
        chat.cache = InMemoryCache()
        other = ChatSpecKV(pair=tiny_pair(), cache=chat.cache, speckv=speckv, max_tokens=12)
        chat.invoke(PROMPT)
        with scripted(other.pair, "not that one"):
            assert other.invoke(PROMPT).text == "not that one"

    def test_gives_the_answer_again_without_the_models(self, chat: ChatSpecKV) -> None:
        chat.cache = InMemoryCache()
        text = chat.invoke(PROMPT).text
        with Steps(chat.pair) as steps:
            assert chat.invoke(PROMPT).text == text
        assert steps.count == 0


class TestProfile:
    def test_of_loaded_models(self, chat: ChatSpecKV) -> None:
        assert chat.profile["max_input_tokens"] == 8192

    def test_of_the_default_model_before_it_is_loaded(self) -> None:
        assert ChatSpecKV().profile["max_input_tokens"] == 8192

    @pytest.mark.usefixtures("in_models_folder")
    def test_of_a_folder_before_it_is_loaded(self) -> None:
        chat = ChatSpecKV(target="tiny-target", draft="tiny-draft")
        assert (chat.is_loaded, chat.profile["max_input_tokens"]) == (False, 8192)

    def test_of_an_unknown_model_does_without(self) -> None:
        assert "max_input_tokens" not in ChatSpecKV(target="somebody/something").profile


def test_text_of_content_blocks_is_read(chat: ChatSpecKV) -> None:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": "Hello"}, {"type": "reasoning", "reasoning": "hm"}]
    assert "Hello" in prompt_of(chat, [HumanMessage("a"), AIMessage(blocks), HumanMessage("b")])


async def test_beams_answer_alone_and_side_by_side(pair: ModelPair, speckv: SpecKVConfig) -> None:
    chat = ChatSpecKV(pair=pair, speckv=speckv, max_tokens=8, generation_kwargs={"num_beams": 3})
    alone = [chat.invoke(prompt) for prompt in (PROMPT, "Who feeds the mule?")]
    found = await asyncio.gather(chat.ainvoke(PROMPT), chat.ainvoke("Who feeds the mule?"))
    assert [message.content for message in found] == [message.content for message in alone]
    assert [message.usage_metadata for message in found] == [message.usage_metadata for message in alone]
