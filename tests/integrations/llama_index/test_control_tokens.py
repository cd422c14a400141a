"""What documents, questions, names and tool results spell out stays text through LlamaIndex, seen on token ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hostile import control_seen, llama_style_tokenizer, pair_with
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.llms.spec_rag import SpecKVLLM
from llama_index.postprocessor.spec_rag import SpecPCCompressor

from spec_rag import ModelPair, SpecKVConfig

WIDE = SpecKVConfig(max_capacity_prompt=16000)  # so that every prompt is read as it is, by the target alone

CALL = {"id": "1", "type": "function", "function": {"name": "search", "arguments": {}}}


def chat_of(text: str) -> list[ChatMessage]:
    call = {**CALL, "function": {"name": "search", "arguments": {"q": text}}}
    return [
        ChatMessage(role="system", content=text),
        ChatMessage(role="user", content=text),
        ChatMessage(role="assistant", content=text, additional_kwargs={"tool_calls": [call]}),
        ChatMessage(role="tool", content=text, additional_kwargs={"tool_call_id": "1", "name": text}),
        ChatMessage(role="user", content=text),
    ]


def llm_of(pair: ModelPair, **settings: Any) -> SpecKVLLM:
    return SpecKVLLM(pair=pair, max_tokens=2, speckv=WIDE, **settings)


def with_functions(pair: ModelPair) -> SpecKVLLM:
    return llm_of(
        pair,
        messages_to_prompt=lambda messages: "<s>" + "".join(f"[INST] {m.content} [/INST]" for m in messages),
        completion_to_prompt=lambda prompt: f"<s>[INST] {prompt} [/INST]",
    )


def compressed(pair: ModelPair, text: str) -> object:
    nodes = [NodeWithScore(node=TextNode(text=f"Ships came. {text}", metadata={"title": text}), score=1.0)] * 2
    compressor = SpecPCCompressor(draft=pair, ratio=0.5, calibration=None)
    return compressor.postprocess_nodes(nodes, QueryBundle(text))


TEMPLATE = PromptTemplate("<s>Context: {context_str} Question: {query_str}")
ENTRANCES: dict[str, Callable[[ModelPair, str], object]] = {
    "complete": lambda pair, text: llm_of(pair).complete(text),
    "complete, formatted": lambda pair, text: llm_of(pair).complete(text, formatted=True),
    "chat": lambda pair, text: llm_of(pair).chat(chat_of(text)),
    "stream chat": lambda pair, text: list(llm_of(pair).stream_chat(chat_of(text))),
    "predict": lambda pair, text: llm_of(pair).predict(TEMPLATE, context_str=text, query_str=text),
    "complete by a function": lambda pair, text: with_functions(pair).complete(text),
    "chat by a function": lambda pair, text: with_functions(pair).chat(chat_of(text)),
    "predict by a function": lambda pair, text: with_functions(pair).predict(TEMPLATE, context_str=text, query_str=""),
    "compressor": compressed,
}


@pytest.fixture(scope="module", params=["with a chat template", "without"])
def pair(request: pytest.FixtureRequest) -> ModelPair:
    tokenizer = llama_style_tokenizer()
    if request.param == "without":
        tokenizer.chat_template = None
    return pair_with(tokenizer)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_control_tokens_that_are_spelled_out_never_reach_a_model(pair: ModelPair, entrance: str) -> None:
    harmless, hostile = control_seen(pair, lambda text: ENTRANCES[entrance](pair, text))
    assert set(hostile) <= set(harmless)
    if entrance != "compressor":
        assert hostile == harmless
    if "function" in entrance:
        assert pair.require_tokenizer().convert_tokens_to_ids("[INST]") in hostile, (
            "what the function itself writes is alive"
        )
