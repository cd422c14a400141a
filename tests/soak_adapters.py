"""The requests of a soak through the adapters of LangChain and LlamaIndex, and the list of all kinds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_spec_rag import ChatSpecKV
from langchain_spec_rag import SpecPCCompressor as LangChainCompressor
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.llms.spec_rag import SpecKVLLM as LlamaIndexLLM
from llama_index.postprocessor.spec_rag import SpecPCCompressor as LlamaIndexCompressor
from soak_requests import (
    MANY,
    SPECKV,
    TOO_LONG,
    Broken,
    Number,
    Place,
    asked_of_a_context,
    awaited_and_cancelled,
    broken_in_the_middle,
    compressed,
    compressed_and_cancelled,
    generated,
    generated_in_a_batch,
    held_to_a_schema,
    indexed_in_a_folder,
    question,
    read_saved_and_loaded_a_context,
    refused,
    scored,
    served,
    served_an_error,
    served_in_part,
    served_to_nobody,
    streamed,
    streamed_and_cancelled,
    streamed_and_closed,
    streamed_and_dropped,
    texts,
    too_long,
    with_models_of_its_own,
)

# LangChain


def lang_documents(chance: random.Random) -> list[LangChainDocument]:
    return [LangChainDocument(text, id=str(i), metadata={"source": str(i)}) for i, text in enumerate(texts(chance))]


def lang_compressed(place: Place, chance: random.Random) -> None:
    given = {"documents": lang_documents(chance), "query": question(chance)}
    made = LangChainCompressor(draft=place.pair, max_tokens=60, metadata_format="flat")
    compressor = chance.choice([place.compressor, made])
    found = asyncio.run(compressor.ainvoke(given)) if chance.random() < 0.3 else compressor.invoke(given)
    assert len(found) <= len(given["documents"])


def lang_answered(place: Place, chance: random.Random) -> None:
    prompt = question(chance)
    asks: list[Callable[[], Any]] = [
        lambda: place.chat.invoke(prompt).usage_metadata,
        lambda: place.chat.batch([prompt, prompt]),
        lambda: asyncio.run(place.chat.abatch([prompt, prompt])),
        lambda: [place.llm.invoke(prompt)],
        lambda: place.llm.batch([prompt] * 3),
        lambda: [ChatSpecKV(pair=place.pair, speckv=None, max_tokens=3).invoke(prompt)],
        lambda: place.chat.with_structured_output(Number, max_tokens=24).invoke(prompt),
        lambda: list(place.chat.stream(prompt)),
        lambda: [place.chat.bind(context=place.contexts[0]).invoke(prompt)],
    ]
    assert chance.choice(asks)()


def lang_streamed_in_part(place: Place, chance: random.Random) -> None:
    pieces = place.chat.bind(max_tokens=MANY).stream(question(chance))
    next(pieces)
    if chance.random() < 0.5:
        pieces.close()


def lang_astreamed_in_part(place: Place, chance: random.Random) -> None:
    async def ask() -> None:
        async for _ in place.chat.bind(max_tokens=MANY).astream(question(chance)):
            break

    asyncio.run(ask())


def lang_cancelled(place: Place, chance: random.Random) -> None:
    async def ask() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(place.chat.bind(max_tokens=MANY).ainvoke(question(chance)), 0.02)

    asyncio.run(ask())


def lang_failed(place: Place, chance: random.Random) -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: place.chat.invoke("x", temperature=-1),
        lambda: place.chat.invoke(TOO_LONG),
        lambda: list(place.chat.stream(TOO_LONG)),
        lambda: place.compressor.invoke({"documents": lang_documents(chance), "query": " "}),
        lambda: place.compressor.invoke({"documents": lang_documents(chance), "query": "x"}, ratio=3.0),
        lambda: ChatSpecKV(pair=place.ailing_target, speckv=SPECKV).invoke("x"),
        lambda: LangChainCompressor(draft=place.ailing_draft, ratio=0.3).invoke(
            {"documents": lang_documents(chance), "query": "x"}
        ),
        lambda: ChatSpecKV(pair=place.pair, timeout=0.001, max_tokens=MANY).invoke(question(chance)),
    ]
    with pytest.raises((ValueError, Broken, TimeoutError)):
        chance.choice(wrong)()


# LlamaIndex


def nodes(chance: random.Random) -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=text, id_=f"{i}", metadata={"file": f"{i}"}), score=1.0 - i / 10)
        for i, text in enumerate(texts(chance))
    ]


def llama_compressed(place: Place, chance: random.Random) -> None:
    given = nodes(chance)
    if chance.random() < 0.3:
        found = asyncio.run(place.llama_compressor.apostprocess_nodes(given, query_str=question(chance)))
    else:
        found = place.llama_compressor.postprocess_nodes(given, query_str=question(chance))
    assert len(found) <= len(given)


def llama_answered(place: Place, chance: random.Random) -> None:
    prompt = question(chance)
    asks: list[Callable[[], Any]] = [
        lambda: place.llama_llm.complete(prompt).raw,
        lambda: place.llama_llm.chat([ChatMessage(content=prompt)]).raw,
        lambda: list(place.llama_llm.stream_complete(prompt)),
        lambda: list(place.llama_llm.stream_chat([ChatMessage(content=prompt)])),
        lambda: asyncio.run(place.llama_llm.achat([ChatMessage(content=prompt)])),
        lambda: place.llama_llm.structured_predict(Number, PromptTemplate(prompt), llm_kwargs={"max_tokens": 24}),
        lambda: LlamaIndexLLM(pair=place.pair, speckv=None, max_tokens=3).complete(prompt).raw,
    ]
    assert chance.choice(asks)()


def llama_streamed_in_part(place: Place, chance: random.Random) -> None:
    pieces = place.llama_llm.stream_complete(question(chance), max_tokens=MANY)
    next(pieces)
    if chance.random() < 0.5:
        pieces.close()


def llama_astreamed_in_part(place: Place, chance: random.Random) -> None:
    async def ask() -> None:
        pieces = await place.llama_llm.astream_chat([ChatMessage(content=question(chance))], max_tokens=MANY)
        async for _ in pieces:
            break

    asyncio.run(ask())


def llama_failed(place: Place, chance: random.Random) -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: place.llama_llm.complete("x", temperature=-1),
        lambda: place.llama_llm.complete(TOO_LONG),
        lambda: list(place.llama_llm.stream_complete(TOO_LONG)),
        lambda: place.llama_compressor.postprocess_nodes(nodes(chance)),
        lambda: LlamaIndexLLM(pair=place.ailing_target, speckv=SPECKV).complete("x"),
        lambda: list(LlamaIndexLLM(pair=place.ailing_target, speckv=SPECKV).stream_complete("x")),
        lambda: LlamaIndexCompressor(draft=place.ailing_draft, ratio=0.3).postprocess_nodes(
            nodes(chance), query_str="x"
        ),
    ]
    with pytest.raises((ValueError, Broken)):
        chance.choice(wrong)()


Kind = Callable[[Place, random.Random], None]
KINDS: tuple[Kind, ...] = (
    compressed, compressed_and_cancelled, generated, generated_in_a_batch, scored, held_to_a_schema, streamed,
    streamed_and_closed, streamed_and_dropped, streamed_and_cancelled, awaited_and_cancelled, asked_of_a_context,
    read_saved_and_loaded_a_context, indexed_in_a_folder, with_models_of_its_own, refused, too_long,
    broken_in_the_middle, lang_compressed, lang_answered, lang_streamed_in_part, lang_astreamed_in_part,
    lang_cancelled, lang_failed, llama_compressed, llama_answered, llama_streamed_in_part, llama_astreamed_in_part,
    llama_failed, served, served_in_part, served_to_nobody, served_an_error,
)  # fmt: skip
