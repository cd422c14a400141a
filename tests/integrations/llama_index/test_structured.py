"""SpecKVLLM where LlamaIndex asks for objects and calls: structured prediction, its streams, and agents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from integrations.llama_index.helpers import STRICT_CHAT_TEMPLATE
from integrations.tiny_llamas import byte_tokenizer
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.spec_rag import SpecKVLLM
from pydantic import BaseModel, field_validator
from transformers import LogitsProcessor, LogitsProcessorList

from spec_rag import SpecKVConfig
from spec_rag.models.model_pair import ModelPair

TOOLS = "{% if tools %}<|im_start|>tools\n{{ tools | tojson }} <tool_call><|im_end|>\n{% endif %}"
PROMPT = PromptTemplate("The mule {name} carried mail over the pass for nine years. What do we know?")


class Mule(BaseModel):
    """A mule."""

    name: str
    age: int


class ShyMule(Mule):
    """A mule that is never there."""

    @field_validator("name")
    @classmethod
    def _refused(cls, name: str) -> str:
        raise ValueError("not there")


@pytest.fixture
def llm(pair: ModelPair, speckv: SpecKVConfig) -> SpecKVLLM:
    return SpecKVLLM(pair=pair, speckv=speckv, max_tokens=60)


@pytest.fixture
def tool_llm(pair: ModelPair) -> SpecKVLLM:
    tokenizer = byte_tokenizer(STRICT_CHAT_TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}" + TOOLS))
    return SpecKVLLM(pair=ModelPair(target=pair.target, tokenizer=tokenizer), draft=None, speckv=None, max_tokens=90)


@contextmanager
def scripted(llm: SpecKVLLM, text: str) -> Iterator[None]:
    """Lets the target write this text."""
    pair = llm.load()
    target, tokenizer = pair.require_target(), pair.require_tokenizer()
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    generate = target.generate

    def writing(input_ids: Any, **options: Any) -> Any:
        class Writes(LogitsProcessor):
            def __call__(self, seen: Any, scores: Any) -> Any:
                forced = torch.full_like(scores, -torch.inf)
                forced[:, ids[min(seen.shape[1] - input_ids.shape[1], len(ids) - 1)]] = 0.0
                return forced

        given = options.pop("logits_processor", None) or ()
        return generate(input_ids=input_ids, logits_processor=LogitsProcessorList([Writes(), *given]), **options)

    target.generate = writing
    try:
        yield
    finally:
        del target.generate


async def test_a_random_model_gives_objects_of_the_class(llm: SpecKVLLM) -> None:
    mule = llm.structured_predict(Mule, PROMPT, name="Saffron")
    assert isinstance(mule, Mule)
    assert await llm.astructured_predict(Mule, PROMPT, name="Saffron") == mule


async def test_streams_of_objects_end_with_the_whole_one(llm: SpecKVLLM) -> None:
    mule = llm.structured_predict(Mule, PROMPT, name="Saffron")
    parts = list(llm.stream_structured_predict(Mule, PROMPT, name="Saffron"))
    assert parts[-1] == mule
    assert len(parts) > 2
    stream = await llm.astream_structured_predict(Mule, PROMPT, name="Saffron")
    assert [part async for part in stream][-1] == mule


async def test_a_structured_llm_answers_chats_with_objects(llm: SpecKVLLM) -> None:
    structured = llm.as_structured_llm(Mule)
    messages = [ChatMessage(role="user", content="Who carried the mail?")]
    answer = structured.chat(messages)
    assert Mule.model_validate_json(answer.message.content or "") == answer.raw
    assert (await structured.achat(messages)).raw == answer.raw
    assert list(structured.stream_chat(messages))[-1].raw == answer.raw


def test_one_call_may_be_held_to_a_schema_or_a_regular_expression(llm: SpecKVLLM) -> None:
    assert json.loads(llm.complete("Who?", schema=Mule).text).keys() == {"name", "age"}
    assert llm.complete("Was it a mule?", regex="(yes|no)").text in ("yes", "no")


def test_what_the_class_checks_beyond_its_schema_is_an_error(llm: SpecKVLLM) -> None:
    with pytest.raises(ValueError, match="not there"):
        llm.structured_predict(ShyMule, PROMPT, name="Saffron")


async def test_a_function_agent_calls_a_tool_and_answers(tool_llm: SpecKVLLM) -> None:
    weighed: list[int] = []

    def weigh(kilos: int) -> str:
        """Weigh a load."""
        weighed.append(kilos)
        return f"{kilos} kilos"

    assert isinstance(tool_llm, FunctionCallingLLM)
    assert tool_llm.metadata.is_function_calling_model
    agent = FunctionAgent(
        tools=[FunctionTool.from_defaults(weigh)], llm=tool_llm, initial_tool_choice="weigh", streaming=True
    )
    handler = agent.run("How heavy is the load?")
    results = [event async for event in handler.stream_events() if isinstance(event, ToolCallResult)]
    answer = await handler
    assert [result.tool_kwargs for result in results] == [{"kilos": weighed[0]}]
    assert str(results[0].tool_output) == f"{weighed[0]} kilos"
    assert answer.response.content


CALLED = '<tool_call>\n{"name": "weigh", "arguments": {"kilos": %s}}\n</tool_call>'


def weigh(kilos: int) -> str:
    """Weigh a load."""
    return f"{kilos} kilos"


async def chats(llm: SpecKVLLM, **options: Any) -> list[ChatMessage]:
    """What one scripted answer is read as, asked in each of the four ways."""
    tools, asked = [FunctionTool.from_defaults(weigh)], "How heavy?"
    options = {"max_tokens": 300, **options}
    streamed = list(llm.stream_chat_with_tools(tools, asked, **options))[-1]
    astream = await llm.astream_chat_with_tools(tools, asked, **options)
    return [
        llm.chat_with_tools(tools, asked, **options).message,
        (await llm.achat_with_tools(tools, asked, **options)).message,
        streamed.message,
        [response async for response in astream][-1].message,
    ]


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Ana Beck", "age": 34}',
        '{"name": "weigh", "arguments": {"kilos": "3"}}',
        CALLED % '"x"',
        "Hm. " + CALLED % "",
    ],
)
async def test_what_is_no_call_of_an_offered_tool_stays_in_the_answer(tool_llm: SpecKVLLM, answer: str) -> None:
    with scripted(tool_llm, answer):
        for message in await chats(tool_llm):
            assert message.content == answer
            assert not tool_llm.get_tool_calls_from_response(ChatResponse(message=message), error_on_no_tool_call=False)


async def test_one_call_alone_unless_parallel_calls_are_allowed(tool_llm: SpecKVLLM) -> None:
    tools = [FunctionTool.from_defaults(weigh)]
    with scripted(tool_llm, CALLED % 3 + "\n" + CALLED % 4):
        for parallel in (False, True):
            for message in await chats(tool_llm, allow_parallel_tool_calls=parallel):
                calls = tool_llm.get_tool_calls_from_response(ChatResponse(message=message))
                assert [call.tool_kwargs["kilos"] for call in calls] == ([3, 4] if parallel else [3])
        assert str(tool_llm.predict_and_call(tools, "How heavy?", max_tokens=300)) == "3 kilos"
        assert str(await tool_llm.apredict_and_call(tools, "How heavy?", max_tokens=300)) == "3 kilos"
        assert (
            str(tool_llm.predict_and_call(tools, "How heavy?", max_tokens=300, allow_parallel_tool_calls=True))
            == "3 kilos\n\n4 kilos"
        )


def test_deep_nesting_is_refused(tool_llm: SpecKVLLM) -> None:
    deep: Any = {"type": "string"}
    for _ in range(2000):
        deep = {"type": "object", "properties": {"a": deep}}
    asked = ChatMessage(role="user", content="a")
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": deep}}
    called = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [call]})
    block = ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="f", tool_kwargs={"a": deep})])
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    for attempt in (
        lambda: tool_llm.chat([asked], tools=[tool]),
        lambda: tool_llm.chat([asked, called, asked]),
        lambda: tool_llm.chat([asked, block, asked]),
        lambda: tool_llm.complete("a", schema=deep),
    ):
        with pytest.raises(ValueError, match="nested more than 64"):
            attempt()
