"""Ways of calling a chat model, its prompts, and a tool to call."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.tools import tool
from langchain_spec_rag import ChatSpecKV

from spec_rag.generation.tool_calls import ToolChoice
from spec_rag.text.prompts import prompt_ids

PROMPT = "Tell me everything about the mule that carried the first lens up the mountain."


@tool
def search(query: str) -> str:
    """Search the handbook."""
    return f"Found: {query}"


CALLED = '<tool_call>\n{"name": "search", "arguments": {"query": "%s"}}\n</tool_call>'


def summed(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


async def all_ways(chat: Any, given: Any) -> dict[str, AIMessage]:
    return {
        "invoke": chat.invoke(given),
        "stream": summed(list(chat.stream(given))),
        "batch": chat.batch([given])[0],
        "ainvoke": await chat.ainvoke(given),
        "astream": summed([chunk async for chunk in chat.astream(given)]),
        "abatch": (await chat.abatch([given]))[0],
    }


def ids_of(chat: ChatSpecKV, messages: list[BaseMessage], tools: Any = ()) -> list[int]:
    return prompt_ids(chat.load().tokenizer, chat._prompt(messages, ToolChoice(tools))).tolist()


def prompt_of(chat: ChatSpecKV, messages: list[BaseMessage], tools: Any = ()) -> str:
    return str(chat.load().tokenizer.decode(ids_of(chat, messages, tools)))
