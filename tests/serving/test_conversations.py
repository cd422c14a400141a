"""What a server remembers of conversations is bounded by bytes; what was forgotten is shortened again to the same."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

from serving.helpers import FACTS, Light
from tiny import tiny_pair

from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.tool_results import ToolResultOptions
from spec_rag.serving.conversations import Conversation, Conversations
from spec_rag.serving.engine import LocalEngine
from spec_rag.serving.metrics import Metrics
from spec_rag.serving.request_texts import RequestTexts
from spec_rag.text.documents import Document
from spec_rag.utils.cancellation import Cancellation

OPTIONS = ToolResultOptions(min_chars=1)
CONFIG = CompressionConfig(ratio=0.5)
MAX_BYTES = 20_000


def result_of(turn: int) -> list[dict[str, Any]]:
    result = " ".join(f"Tank {turn}-{i} holds {turn * 100 + i} litres of water." for i in range(20))
    return [{"role": "user", "content": f"How much does tank {turn} hold?"}, {"role": "tool", "content": result}]


def chat(messages: list[dict[str, Any]]) -> RequestTexts:
    return RequestTexts.of("chat", {"messages": messages})


def reused_by(conversations: Conversations) -> float | None:
    return conversations.metrics.registry.get_sample_value("spec_rag_compression_reused_total")


async def test_long_results_are_remembered_up_to_so_many_bytes() -> None:
    conversations = Conversations(Light(), OPTIONS, Metrics(), MAX_BYTES)

    async def shortened(turn: int) -> str:
        return (await conversations.shortened(chat(result_of(turn)), [], CONFIG)).messages[1]["content"]

    first = await shortened(0)
    fit = MAX_BYTES // 4 // len(first)
    for turn in range(1, 2 * fit):
        await shortened(turn)
        assert conversations._texts.held_bytes <= MAX_BYTES // 4
    assert conversations._texts.held_bytes > MAX_BYTES // 8
    assert await shortened(0) == first
    assert reused_by(conversations) == 0
    assert await shortened(0) == first
    assert reused_by(conversations) == 1


async def test_documents_of_conversations_are_remembered_up_to_so_many_bytes() -> None:
    conversations = Conversations(Light(), OPTIONS, Metrics(), MAX_BYTES)
    documents = [Document(text, title) for title, text in FACTS]

    async def put_before(turn: int) -> Conversation:
        return await conversations.shortened(chat([{"role": "user", "content": f"Tank {turn}?"}]), documents, CONFIG)

    first = await put_before(0)
    for turn in range(1, 2 * (MAX_BYTES // 4 // len(first.messages[0]["content"]))):
        await put_before(turn)
        assert conversations._blocks.held_bytes <= MAX_BYTES // 4
    assert conversations._blocks.held_bytes > MAX_BYTES // 8
    assert await put_before(0) == first


async def test_documents_that_are_remembered_count_as_reused_and_new_ones_do_not() -> None:
    conversations = Conversations(Light(), OPTIONS, Metrics(), 2**20)
    documents = [Document(text, title) for title, text in FACTS]
    messages = [{"role": "user", "content": "How much?"}]
    reused = []
    for _ in range(3):
        await conversations.shortened(chat(messages), documents, CONFIG)
        reused.append(reused_by(conversations))
    messages = [{"role": "user", "content": "Never asked."}, {"role": "assistant", "content": "-"}, *messages]
    await conversations.shortened(chat(messages), documents, CONFIG)  # no documents were put before its first question
    assert [*reused, reused_by(conversations)] == [0, 1, 2, 2]


async def test_another_set_of_documents_counts_and_the_oldest_set_goes() -> None:
    conversations = Conversations(Light(), OPTIONS, Metrics(), 2**20)
    for count in range(1, 30):
        documents = [Document(f"Tank {count} holds {i} litres. It is old.", f"Tank {count}") for i in range(2)]
        await conversations.shortened(chat([{"role": "user", "content": "How much?"}]), documents, CONFIG)
        if count == 8:
            full = conversations._blocks.held_bytes
    assert full < conversations._blocks.held_bytes < 1.1 * full


def test_a_reading_for_other_budgets_is_counted_as_no_less_than_it_takes() -> None:
    own = LocalEngine(tiny_pair(), index=DocumentIndex(memory_bytes=0))
    first, second = ([Document(text * times) for _, text in FACTS] for times in (1, 3))
    own._read(first, "How much?", CONFIG, None, Cancellation())
    before = own._readings.held_bytes
    tracemalloc.start()
    try:
        own._read(second, "How much?", CONFIG, None, Cancellation())
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < own._readings.held_bytes - before < 3 * taken
