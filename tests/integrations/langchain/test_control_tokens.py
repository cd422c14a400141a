"""What documents, questions, names and tool results spell out stays text through LangChain, seen on token ids."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hostile import control_seen, llama_style_tokenizer, pair_with
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_spec_rag import ChatSpecKV, SpecKVLLM, SpecPCCompressor

from spec_rag import ModelPair, SpecKVConfig

WIDE = SpecKVConfig(max_capacity_prompt=16000)  # so that every prompt is read as it is, by the target alone


def chat_of(text: str) -> list[BaseMessage]:
    call = ToolCall(name="search", args={"q": text}, id="1", type="tool_call")
    return [
        SystemMessage(text),
        HumanMessage([{"type": "text", "text": text}], name=text),
        AIMessage(text, tool_calls=[call], name=text),
        ToolMessage(text, tool_call_id="1", name=text),
        ChatMessage(role="user", content=text),
    ]


def tool(text: str) -> dict[str, object]:
    return {"type": "function", "function": {"name": "search", "description": text, "parameters": {}}}


def chat(pair: ModelPair) -> ChatSpecKV:
    return ChatSpecKV(pair=pair, max_tokens=2, speckv=WIDE)


def llm(pair: ModelPair, use_chat_template: bool) -> SpecKVLLM:
    return SpecKVLLM(pair=pair, max_tokens=2, speckv=WIDE, use_chat_template=use_chat_template)


def compressed(pair: ModelPair, text: str) -> object:
    documents = [Document(f"Ships came. {text}", metadata={"title": text}) for _ in range(2)]
    return SpecPCCompressor(draft=pair, ratio=0.5, calibration=None).compress_documents(documents, text)


ENTRANCES: dict[str, Callable[[ModelPair, str], object]] = {
    "chat": lambda pair, text: chat(pair).invoke(chat_of(text)),
    "chat with tools": lambda pair, text: chat(pair).bind_tools([tool(text)]).invoke(chat_of(text)),
    "stream": lambda pair, text: list(chat(pair).stream(chat_of(text))),
    "llm": lambda pair, text: llm(pair, True).invoke(text),
    "llm without a template": lambda pair, text: llm(pair, False).invoke(text),
    "compressor": compressed,
}


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return pair_with(llama_style_tokenizer())


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_control_tokens_that_are_spelled_out_never_reach_a_model(pair: ModelPair, entrance: str) -> None:
    harmless, hostile = control_seen(pair, lambda text: ENTRANCES[entrance](pair, text))
    assert set(hostile) <= set(harmless)
    if entrance != "compressor":
        assert hostile == harmless
