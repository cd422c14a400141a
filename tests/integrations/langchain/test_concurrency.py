"""One engine under all adapters: requests from threads and event loops queue on it, and leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from integrations.langchain.helpers import scripted
from langchain_core.documents import Document
from langchain_spec_rag import ChatSpecKV, SpecKVLLM, SpecPCCompressor
from threads import wait_for_no_stream_threads

from spec_rag import SpecKVConfig, SpecPCConfig
from spec_rag.models.model_pair import ModelPair

PROMPTS = [f"Question {i}: who carried lens number {i * i} up the mountain, and why?" for i in range(32)]


def tensor_bytes() -> int:
    gc.collect()
    return sum(o.untyped_storage().nbytes() for o in gc.get_objects() if isinstance(o, torch.Tensor))


def test_32_requests_from_threads_and_event_loops(pair: ModelPair, speckv: SpecKVConfig) -> None:
    chat = ChatSpecKV(pair=pair, speckv=speckv, max_tokens=8)
    expected = [chat.invoke(prompt).text for prompt in PROMPTS]
    threads_before, bytes_before = set(threading.enumerate()), tensor_bytes()

    async def asked() -> list[str]:
        async def streamed(prompt: str) -> str:
            return "".join([chunk.text async for chunk in chat.astream(prompt)])

        invoked = [chat.ainvoke(prompt) for prompt in PROMPTS[16:24]]
        *messages, a, b, c, d, e, f, g, h = await asyncio.gather(*invoked, *map(streamed, PROMPTS[24:32]))
        return [message.text for message in messages] + [a, b, c, d, e, f, g, h]

    def in_a_stream(prompt: str) -> str:
        return "".join(chunk.text for chunk in chat.stream(prompt))

    with ThreadPoolExecutor(17) as pool:
        loop = pool.submit(lambda: asyncio.run(asked()))
        invoked = [pool.submit(lambda p=prompt: chat.invoke(p).text) for prompt in PROMPTS[:8]]
        streamed = [pool.submit(in_a_stream, prompt) for prompt in PROMPTS[8:16]]
        answers = [future.result(60) for future in [*invoked, *streamed]] + loop.result(60)
    assert answers == expected
    wait_for_no_stream_threads()
    assert set(threading.enumerate()) <= threads_before
    assert pair.lock.waiting == 0
    assert tensor_bytes() <= bytes_before


def test_different_settings_on_one_model_do_not_mix(pair: ModelPair, speckv: SpecKVConfig) -> None:
    specpc = SpecPCConfig(max_capacity_prompt=40, window_size=8, kernel_size=4, starting_layer_index=0, unit="token")
    models = [
        ChatSpecKV(pair=pair, speckv=speckv, max_tokens=8),
        ChatSpecKV(pair=pair, speckv=None, max_tokens=8),
        ChatSpecKV(pair=pair, specpc=specpc, speckv=None, max_tokens=8),
        ChatSpecKV(pair=pair, speckv=None, temperature=1.5, seed=7, max_tokens=8),
    ]
    expected = [model.invoke(PROMPTS[3]).text for model in models]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda model: model.invoke(PROMPTS[3]).text, models * 3))
    assert answers == expected * 3


def test_compressing_and_answering_on_one_model_do_not_deadlock(pair: ModelPair) -> None:
    shared = ModelPair(draft=pair.target, target=pair.target, tokenizer=pair.tokenizer, draft_name="t", target_name="t")
    chat, llm = ChatSpecKV(pair=shared, max_tokens=6), SpecKVLLM(pair=shared, max_tokens=6)
    compressor = SpecPCCompressor(draft=shared, ratio=0.5)
    texts = ["The dome was opened in 1931. It is painted green.", "The mule was called Saffron. It was old."]
    given = {"documents": [Document(text) for text in texts], "query": PROMPTS[0]}
    expected = (chat.invoke(PROMPTS[0]).text, llm.invoke(PROMPTS[0]), compressor.invoke(given))

    async def all_at_once() -> list[object]:
        return await asyncio.wait_for(
            asyncio.gather(
                *(chat.ainvoke(PROMPTS[0]) for _ in range(4)),
                *(llm.abatch([PROMPTS[0]]) for _ in range(4)),
                *(compressor.ainvoke(given) for _ in range(4)),
            ),
            60,
        )

    answers = asyncio.run(all_at_once())
    assert [answer.text for answer in answers[:4]] == [expected[0]] * 4
    assert answers[4:8] == [[expected[1]]] * 4
    assert answers[8:] == [expected[2]] * 4


def test_requests_are_served_in_the_order_of_their_arrival(pair: ModelPair) -> None:
    served: list[str] = []
    llm = SpecKVLLM(pair=pair, use_chat_template=False, max_tokens=2)
    threads = [threading.Thread(target=llm.invoke, args=(prompt,)) for prompt in PROMPTS[:6]]
    with scripted(pair, lambda prompt: served.append(prompt.removeprefix("<s>")) or "ok"):
        with pair.lock.hold():
            for arrived, thread in enumerate(threads, start=2):
                thread.start()
                deadline = time.monotonic() + 5
                while pair.lock.waiting < arrived and time.monotonic() < deadline:
                    time.sleep(0.001)
        for thread in threads:
            thread.join()
    assert served == PROMPTS[:6]


def test_a_stream_that_nobody_reads_holds_no_lock(pair: ModelPair) -> None:
    chat = ChatSpecKV(pair=pair, max_tokens=6)
    unread = chat.stream(PROMPTS[0])
    next(unread)
    assert chat.invoke(PROMPTS[1]).text
    unread.close()


def test_a_chats_batch_is_answered_in_one_batch(pair: ModelPair, speckv: SpecKVConfig) -> None:
    chat = ChatSpecKV(pair=pair, speckv=speckv, max_tokens=8)
    prompts = PROMPTS[:4]
    expected = [chat.invoke(prompt).text for prompt in prompts]
    rows: list[int] = []
    hook = pair.target.register_forward_pre_hook(
        lambda model, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    answered: list[list[str]] = []
    caller = threading.Thread(target=lambda: answered.append([message.text for message in chat.batch(prompts)]))
    try:
        with pair.lock.hold():
            caller.start()
            deadline = time.monotonic() + 20
            while pair.lock.waiting < 1 + len(prompts):
                assert time.monotonic() < deadline
                time.sleep(0.005)
        caller.join(60)
    finally:
        hook.remove()
    assert answered == [expected]
    assert rows == [4] * 8, "the steps of one answer, and not of four"
