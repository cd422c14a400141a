"""SpecKVLLM behind a context that the target has read once."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.llms.spec_rag import SpecKVLLM

from spec_rag import ContextCache, generate
from spec_rag.errors import ConfigError
from spec_rag.models.model_pair import ModelPair

TEXT = "The ferry leaves at nine. Saffron the mule carries the mail. The dome was opened in 1931. " * 3
TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def context(pair: ModelPair) -> ContextCache:
    return ContextCache.read(pair, TEXT)


async def test_questions_start_from_the_context_of_the_field_or_of_the_call(
    pair: ModelPair, context: ContextCache
) -> None:
    wanted = generate(pair, "Who?", context=context, max_new_tokens=8)
    llm = SpecKVLLM(pair=pair, context=context, max_tokens=8)
    assert llm.complete("Who?").text == (await llm.acomplete("Who?")).text == wanted.text
    messages = [ChatMessage(role="user", content="Who?")]
    answer = SpecKVLLM(pair=pair, max_tokens=8).chat(messages, context=context)
    assert answer.message.content == wanted.text
    assert answer.raw["usage"]["prompt_tokens"] == wanted.prompt_tokens
    assert list(llm.stream_chat(messages))[-1].message.content == wanted.text
    assert "context" not in llm.to_dict()


def test_tools_are_refused_behind_a_context(pair: ModelPair, context: ContextCache) -> None:
    with pytest.raises(ConfigError, match="tools"):
        SpecKVLLM(pair=pair, context=context).chat([ChatMessage(role="user", content="Who?")], tools=[TOOL])
