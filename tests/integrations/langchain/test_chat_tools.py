"""ChatSpecKV calls tools and answers in the form of a schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from integrations.langchain.chats import CALLED, PROMPT, all_ways, search, summed
from integrations.langchain.helpers import (
    scripted,
)
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import (
    HumanMessage,
)
from langchain_spec_rag import ChatSpecKV
from pydantic import BaseModel


class TestTools:
    async def test_calls_are_read_however_asked(self, tool_chat: ChatSpecKV) -> None:
        text = 'Let me look.\n<tool_call>\n{"name": "search", "arguments": {"query": "Säule"}}\n</tool_call>'
        with scripted(tool_chat.pair, text):
            messages = await all_ways(tool_chat.bind_tools([search]), PROMPT)
        for message in messages.values():
            (call,) = message.tool_calls
            assert (call["name"], call["args"]) == ("search", {"query": "Säule"})
            assert call["id"]
            assert message.text == "Let me look."

    def test_several_calls(self, tool_chat: ChatSpecKV) -> None:
        one = '<tool_call>{"name": "search", "arguments": {"query": "%s"}}</tool_call>'
        with scripted(tool_chat.pair, one % "a" + "\n" + one % "b"):
            calls = tool_chat.bind_tools([search]).invoke(PROMPT).tool_calls
        assert [call["args"]["query"] for call in calls] == ["a", "b"]

    @pytest.mark.parametrize(
        "text",
        [
            '{"name": "search", "parameters": {"query": "a"}}',
            '[{"name": "search", "arguments": {"query": "a"}}]',
            '{"type": "function", "function": {"name": "search", "arguments": "{\\"query\\": \\"a\\"}"}}',
        ],
    )
    def test_other_models_ways_of_calling(self, tool_chat: ChatSpecKV, text: str) -> None:
        with scripted(tool_chat.pair, text):
            bound = tool_chat.bind_tools([search])
            message, streamed = bound.invoke(PROMPT), summed(list(bound.stream(PROMPT)))
        assert message.tool_calls[0]["args"] == streamed.tool_calls[0]["args"] == {"query": "a"}
        assert message.text == streamed.text == ""

    def test_json_that_calls_nothing_is_an_answer(self, tool_chat: ChatSpecKV) -> None:
        with scripted(tool_chat.pair, '{"mule": "Saffron"}'):
            bound = tool_chat.bind_tools([search])
            message, streamed = bound.invoke(PROMPT), summed(list(bound.stream(PROMPT)))
        assert message.text == streamed.text == '{"mule": "Saffron"}'
        assert not message.tool_calls

    def test_a_broken_call_is_an_invalid_one(self, tool_chat: ChatSpecKV) -> None:
        with scripted(tool_chat.pair, '<tool_call>{"name": "search", "argum'):
            bound = tool_chat.bind_tools([search])
            message, streamed = bound.invoke(PROMPT), summed(list(bound.stream(PROMPT)))
        for one in (message, streamed):
            assert not one.tool_calls
            assert one.invalid_tool_calls[0]["args"] == '<tool_call>{"name": "search", "argum'

    async def test_an_answer_in_json_is_no_call_however_asked(self, tool_chat: ChatSpecKV) -> None:
        for answer in ('{"name": "Ana Beck", "age": 34}', '{"name": "search", "arguments": {"q": 3}}'):
            with scripted(tool_chat.pair, answer):
                messages = await all_ways(tool_chat.bind_tools([search]), PROMPT)
            for message in messages.values():
                assert (message.text, message.tool_calls, message.invalid_tool_calls) == (answer, [], [])

    async def test_where_no_tool_may_be_called_a_call_is_text(self, tool_chat: ChatSpecKV) -> None:
        with scripted(tool_chat.pair, CALLED % "a"):
            messages = await all_ways(tool_chat.bind_tools([search], tool_choice="none"), PROMPT)
        for message in messages.values():
            assert (message.text, message.tool_calls) == (CALLED % "a", [])

    async def test_one_call_alone_where_parallel_calls_are_off(self, tool_chat: ChatSpecKV) -> None:
        with scripted(tool_chat.pair, CALLED % "a" + "\n" + CALLED % "b"):
            messages = await all_ways(tool_chat.bind_tools([search], parallel_tool_calls=False), PROMPT)
        for message in messages.values():
            assert [call["args"] for call in message.tool_calls] == [{"query": "a"}]

    async def test_strict_holds_every_call_to_its_schema(self, tool_chat: ChatSpecKV) -> None:
        with scripted(
            tool_chat.pair,
            'I look.\n<tool_call>\n{"name": "search", "arguments": {"query": 37}}\n</tool_call>',
            constrained=True,
        ):
            loose = tool_chat.bind_tools([search], strict=False).invoke(PROMPT)
            messages = await all_ways(tool_chat.bind_tools([search], strict=True), PROMPT)
        assert "37 is not of type 'string'" in loose.invalid_tool_calls[0]["error"]
        for message in messages.values():
            assert [type(call["args"]["query"]) for call in message.tool_calls] == [str]
            assert message.text == "I look."

    async def test_tools_beside_a_response_format_can_be_called_or_the_answer_has_its_form(
        self, tool_chat: ChatSpecKV
    ) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "mule", "schema": Mule.model_json_schema()}}
        bound = tool_chat.bind_tools([search], strict=True, response_format=form)
        with scripted(tool_chat.pair, CALLED % "a", constrained=True):
            for message in (await all_ways(bound, PROMPT)).values():
                assert [call["args"] for call in message.tool_calls] == [{"query": "a"}]
        with scripted(tool_chat.pair, "I do not know.", constrained=True):
            for message in (await all_ways(bound, PROMPT)).values():
                assert message.tool_calls or Mule.model_validate_json(message.text)
        with scripted(tool_chat.pair, '{"name": "Saffron", "age": 9}', constrained=True):
            for message in (await all_ways(bound, PROMPT)).values():
                assert Mule.model_validate_json(message.text) == Mule(name="Saffron", age=9)

    def test_text_without_calls_streams_as_it_comes(self, tool_chat: ChatSpecKV) -> None:
        with scripted(tool_chat.pair, "1 < 2 and the mule  is here "):
            chunks = list(tool_chat.bind_tools([search]).stream(PROMPT))
        assert len(chunks) > 4
        assert summed(chunks).text == "1 < 2 and the mule  is here "

    @pytest.mark.parametrize(
        "choice", ["search", "any", "required", True, {"type": "function", "function": {"name": "search"}}]
    )
    def test_choice_begins_the_answer_as_a_call(self, tool_chat: ChatSpecKV, choice: Any) -> None:
        bound = tool_chat.bind_tools([search], tool_choice=choice)
        with scripted(tool_chat.pair, '{"query": "a"}}\n</tool_call>'):
            (call,) = bound.invoke(PROMPT).tool_calls
        assert (call["name"], call["args"]) == ("search", {"query": "a"})

    def test_choice_of_none_leaves_the_tools_out(self, tool_chat: ChatSpecKV) -> None:
        usage = tool_chat.bind_tools([search], tool_choice="none").invoke(PROMPT).usage_metadata
        messages = [HumanMessage(PROMPT)]
        assert usage["input_tokens"] == tool_chat.get_num_tokens_from_messages(messages)
        assert usage["input_tokens"] < tool_chat.get_num_tokens_from_messages(messages, [search])

    def test_a_random_model_that_is_forced_calls_with_arguments_that_fit(self, tool_chat: ChatSpecKV) -> None:
        bound = tool_chat.bind_tools([search], tool_choice="search", max_tokens=120)
        for message in (bound.invoke(PROMPT), summed(list(bound.stream(PROMPT)))):
            assert [call["name"] for call in message.tool_calls] == ["search"]
            assert search.args_schema.model_validate(message.tool_calls[0]["args"])
            assert message.invalid_tool_calls == []

    def test_unknown_choice_is_refused(self, tool_chat: ChatSpecKV) -> None:
        with pytest.raises(ValueError, match="tool_choice='find'"):
            tool_chat.bind_tools([search], tool_choice="find")

    def test_a_template_without_tools_is_refused_with_the_way_out(self, chat: ChatSpecKV) -> None:
        with pytest.raises(NotImplementedError, match=r"tiny-target.*does not support tools"):
            chat.bind_tools([search])


class Mule(BaseModel):
    """A mule."""

    name: str
    age: int


class TestStructuredOutput:
    def test_schema_is_in_a_system_message(self, chat: ChatSpecKV) -> None:
        seen: list[str] = []
        with scripted(chat.pair, lambda prompt: seen.append(prompt) or '{"name": "Saffron", "age": 9}'):
            structured = chat.with_structured_output(Mule, max_tokens=60)
            assert structured.invoke(PROMPT) == Mule(name="Saffron", age=9)
        assert seen[0].startswith("<s><|im_start|>system\n")
        assert '"title": "Mule"' in seen[0]

    async def test_async_and_stream(self, chat: ChatSpecKV) -> None:
        with scripted(chat.pair, '```json\n{"name": "Saffron", "age": 9}\n```'):
            structured = chat.with_structured_output(Mule, max_tokens=60)
            assert await structured.ainvoke(PROMPT) == Mule(name="Saffron", age=9)
            assert [one async for one in structured.astream(PROMPT)][-1] == Mule(name="Saffron", age=9)

    def test_answer_that_does_not_fit_is_an_error(self, chat: ChatSpecKV) -> None:
        with scripted(chat.pair, '{"name": "Saffron"}'), pytest.raises(OutputParserException):
            chat.with_structured_output(Mule, max_tokens=60).invoke(PROMPT)

    def test_raw_answer_may_be_kept(self, chat: ChatSpecKV) -> None:
        structured = chat.with_structured_output(Mule, include_raw=True, max_tokens=60)
        with scripted(chat.pair, "no idea"):
            out = structured.invoke(PROMPT)
        assert (out["raw"].text, out["parsed"]) == ("no idea", None)
        assert isinstance(out["parsing_error"], OutputParserException)

    def test_unknown_method_is_refused(self, chat: ChatSpecKV) -> None:
        with pytest.raises(ValueError, match="json_schema"):
            chat.with_structured_output(Mule, method="yaml")

    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    def test_a_random_model_is_held_to_the_schema(self, chat: ChatSpecKV, method: str) -> None:
        structured = chat.with_structured_output(Mule, method=method, include_raw=True, max_tokens=60)
        out = structured.invoke(PROMPT)
        assert isinstance(out["parsed"], Mule)
        assert json.loads(out["raw"].text).keys() == {"name", "age"}
        assert structured.invoke(PROMPT, config={"tags": ["again"]})["parsed"] == out["parsed"]

    async def test_a_random_model_is_held_in_streams_and_batches(self, chat: ChatSpecKV) -> None:
        structured = chat.with_structured_output(Mule, max_tokens=60)
        wanted = structured.invoke(PROMPT)
        assert list(structured.stream(PROMPT))[-1] == wanted == await structured.ainvoke(PROMPT)
        assert structured.batch([PROMPT, PROMPT]) == [wanted, wanted]

    def test_json_mode_holds_to_any_object(self, chat: ChatSpecKV) -> None:
        structured = chat.with_structured_output({**Mule.model_json_schema()}, method="json_mode", max_tokens=40)
        assert isinstance(structured.invoke(PROMPT), dict)

    def test_a_typed_dict_is_held_to(self, chat: ChatSpecKV) -> None:
        from typing_extensions import TypedDict

        class Load(TypedDict):
            """A load."""

            kilos: int

        loaded = chat.with_structured_output(Load, max_tokens=40).invoke(PROMPT)
        assert list(loaded) == ["kilos"]
        assert isinstance(loaded["kilos"], int)

    def test_strict_refuses_what_cannot_be_held_to(self, chat: ChatSpecKV) -> None:
        class Sisters(BaseModel):
            """Sisters."""

            names: set[int]

        assert isinstance(chat.with_structured_output(Sisters, max_tokens=60).invoke(PROMPT), Sisters)
        with pytest.raises(ValueError, match="uniqueItems"):
            chat.with_structured_output(Sisters, strict=True)

    def test_a_schema_or_a_regular_expression_holds_any_call(self, chat: ChatSpecKV) -> None:
        assert json.loads(chat.invoke(PROMPT, schema=Mule.model_json_schema(), max_tokens=60).text).keys() == {
            "name",
            "age",
        }
        assert chat.invoke(PROMPT, regex="(yes|no)").text in ("yes", "no")
        assert chat._get_llm_string(regex="a") != chat._get_llm_string(regex="b") != chat._get_llm_string()

    def test_in_a_chain_after_a_prompt(self, chat: ChatSpecKV) -> None:
        from langchain_core.prompts import ChatPromptTemplate

        chain = ChatPromptTemplate.from_messages([("system", "You know mules."), ("human", "{q}")])
        with scripted(chat.pair, '{"name": "Saffron", "age": 9}'):
            assert (chain | chat.with_structured_output(Mule.model_json_schema(), max_tokens=60)).invoke(
                {"q": "Who?"}
            ) == {"name": "Saffron", "age": 9}
