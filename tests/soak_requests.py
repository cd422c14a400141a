"""The requests of a soak: every kind that people make of the package, on tiny models, and every way in which one ends.

Each kind is one function that makes a request and says whether it ended as it should: with what was asked for, with the
error that it asked for, or cancelled. What they leave behind is looked at in `soak.py`.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_spec_rag import ChatSpecKV, SpecKVLLM
from langchain_spec_rag import SpecPCCompressor as LangChainCompressor
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.llms.spec_rag import SpecKVLLM as LlamaIndexLLM
from llama_index.postprocessor.spec_rag import SpecPCCompressor as LlamaIndexCompressor
from pydantic import BaseModel
from serving.helpers import MODEL, running, settings
from tiny import tiny_model, tiny_pair, tiny_tokenizer

from spec_rag import (
    Cancellation,
    ContextCache,
    DocumentIndex,
    ModelPair,
    SpecKVConfig,
    SpecPCConfig,
    agenerate,
    compress,
    generate,
    generate_batch,
    score_prompt,
    stream,
)
from spec_rag.errors import CancelledError, ConfigError, PromptTooLongError
from spec_rag.serving.app import create_app
from spec_rag.serving.conversations import SETS_OF_DOCUMENTS
from spec_rag.serving.engine import READINGS, LocalEngine
from spec_rag.text.tokenization import control_tokens

SPECKV = SpecKVConfig(max_capacity_prompt=32, lookahead_tokens=3)
SPECPC = SpecPCConfig(max_capacity_prompt=64, window_size=16, kernel_size=8, starting_layer_index=1)
SUBJECTS = ("gate", "tank", "mule", "lamp", "boat", "well", "kiln", "mast")
SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False},
    {"enum": ["gate", "tank", "mule"]},
)
TOO_LONG = "word " * 1200  # of 4,096 tokens, one per byte
CONTEXTS = 3
HOUSES, MOST_TEXTS = 10, 4  # all texts that there are, and of one request
INDEX_BYTES = 200_000
CONVERSATIONS = 2
BOUNDS = (
    f"{READINGS} readings and {CONVERSATIONS} conversations with {SETS_OF_DOCUMENTS} sets of documents in the server, "
    f"{INDEX_BYTES:,} bytes in an index, {HOUSES} originals with a compressor"
)
MANY = 80  # tokens of an answer that nobody waits for


class Number(BaseModel):
    """What structured answers are."""

    n: int


class Broken(RuntimeError):
    """What broken tokenizers and models raise."""


def _broken(*_: Any, **__: Any) -> Any:
    raise Broken("out of order")


class Place:
    """Models, adapters, a server and its clients, which live as long as the soak; requests come and go."""

    def __init__(self, client: httpx.Client, engine: LocalEngine) -> None:
        self.client = client
        self.pair = pair = engine.pair
        self.index = DocumentIndex(memory_bytes=INDEX_BYTES)
        tokenizer = tiny_tokenizer()
        tokenizer.apply_chat_template = _broken
        self.misspelt = ModelPair(draft=pair.draft, target=pair.target, tokenizer=tokenizer, target_name="misspelt")
        ailing = tiny_model(seed=3, layers=2)
        ailing.get_decoder().layers[0].mlp.forward = _broken
        self.ailing_target = ModelPair(draft=pair.draft, target=ailing, tokenizer=pair.tokenizer, target_name="ailing")
        self.ailing_draft = ModelPair(draft=ailing, target=pair.target, tokenizer=pair.tokenizer, draft_name="ailing")
        self.chat = ChatSpecKV(pair=pair, speckv=SPECKV, max_tokens=4)
        self.llm = SpecKVLLM(pair=pair, speckv=SPECKV, max_tokens=4)
        self.compressor = LangChainCompressor(draft=pair, ratio=0.5, index=self.index)
        self.llama_llm = LlamaIndexLLM(pair=pair, speckv=SPECKV, max_tokens=4)
        self.llama_compressor = LlamaIndexCompressor(draft=pair, ratio=0.5, index=self.index)
        self.contexts = [ContextCache.read(pair, " ".join(texts(random.Random(i), 3))) for i in range(CONTEXTS)]
        self.models = [pair.draft, pair.target, ailing]

    def fill(self) -> None:
        """Bring what is kept on purpose to its bounds, by the largest requests: others cannot add to it."""
        everything = town(range(HOUSES))
        self.compressor.invoke({"documents": [LangChainDocument(text) for text in everything], "query": "age?"})
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in everything]
        self.llama_compressor.postprocess_nodes(nodes, query_str="age?")
        sets = combinations(range(HOUSES), MOST_TEXTS)
        for number, houses in zip(range(max(READINGS, CONVERSATIONS * SETS_OF_DOCUMENTS)), sets, strict=False):
            documents = [{"text": text} for text in town(houses)]
            query = f"Conversation {number % CONVERSATIONS}?"
            asked = _ask(random.Random(), messages=[{"role": "user", "content": query}], documents=documents)
            self.client.post("chat/completions", json=asked).raise_for_status()

    def probe(self) -> list[int]:
        """An answer that must always be the same: nothing of the requests before has a say in it."""
        return generate(self.pair, list(range(10, 120)), SPECPC, SPECKV, 6).output_ids


@contextmanager
def opened() -> Iterator[Place]:
    """A place whose server runs in a thread."""
    pair = tiny_pair()
    pair.target.generation_config.suppress_tokens = sorted(
        pair.tokenizer.convert_tokens_to_ids(sorted(control_tokens(pair.tokenizer)))
    )
    engine = LocalEngine(pair, speckv=SPECKV, timeout_seconds=60.0, index=DocumentIndex(memory_bytes=INDEX_BYTES))
    no_pool = httpx.Limits(max_keepalive_connections=0)
    app = create_app(settings(), engine)
    with running(app) as url, httpx.Client(base_url=f"{url}/v1/", timeout=60, limits=no_pool) as client:
        server = app.state.server
        server.conversations = replace(server.conversations, most=CONVERSATIONS)
        place = Place(client, engine)
        place.fill()
        yield place


def texts(chance: random.Random, count: int | None = None) -> list[str]:
    """Documents of a small town, so that some come again."""
    return town(chance.randrange(HOUSES) for _ in range(count or chance.randrange(1, MOST_TEXTS + 1)))


def town(houses: Iterable[int]) -> list[str]:
    return [" ".join(f"The {s} number {n} is {n + i} years old." for i, s in enumerate(SUBJECTS[:5])) for n in houses]


def question(chance: random.Random) -> str:
    return f"How old is the {chance.choice(SUBJECTS)} number {chance.randrange(6)}?"


def chat_of(chance: random.Random) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{' '.join(texts(chance))} {question(chance)}"}]


def methods(chance: random.Random) -> tuple[SpecPCConfig | None, SpecKVConfig | None]:
    return chance.choice([(None, None), (SPECPC, None), (None, SPECKV), (SPECPC, SPECKV)])


# core


def compressed(place: Place, chance: random.Random) -> None:
    how: dict[str, Any] = chance.choice([{"scoring": "joint"}, {"index": place.index}, {"unit": "token"}, {}])
    found = compress(texts(chance), question(chance), draft=place.pair, ratio=0.4, **how)
    assert found.tokens_after <= found.tokens_before


def compressed_and_cancelled(place: Place, chance: random.Random) -> None:
    cancelled = Cancellation()
    cancelled.set()
    with pytest.raises(CancelledError):
        compress(texts(chance), question(chance), draft=place.pair, ratio=0.2, cancelled=cancelled)


def generated(place: Place, chance: random.Random) -> None:
    options = chance.choice([{}, {"temperature": 1.0, "seed": 5}, {"num_beams": 2}, {"prefill_chunk_size": 40}])
    assert generate(place.pair, chat_of(chance), *methods(chance), 4, **options).prompt_tokens


def generated_in_a_batch(place: Place, chance: random.Random) -> None:
    prompts = [chat_of(chance) for _ in range(chance.randrange(2, 5))]
    assert len(generate_batch(place.pair, prompts, *methods(chance), 4)) == len(prompts)


def scored(place: Place, chance: random.Random) -> None:
    assert len(score_prompt(place.pair, chat_of(chance), SPECPC).selected) <= 64


def held_to_a_schema(place: Place, chance: random.Random) -> None:
    held = chance.choice([{"schema": chance.choice(SCHEMAS)}, {"regex": "[a-f]{2,6}"}])
    assert generate(place.pair, chat_of(chance), None, SPECKV, 24, **held).text


def streamed(place: Place, chance: random.Random) -> None:
    with stream(place.pair, chat_of(chance), *methods(chance), 4) as pieces:
        assert "".join(pieces) == pieces.answer.text


def streamed_and_closed(place: Place, chance: random.Random) -> None:
    with stream(place.pair, chat_of(chance), *methods(chance), MANY) as pieces:
        next(pieces)


def streamed_and_dropped(place: Place, chance: random.Random) -> None:
    pieces = stream(place.pair, chat_of(chance), None, SPECKV, MANY)
    if chance.random() < 0.5:
        next(pieces)
    del pieces


def streamed_and_cancelled(place: Place, chance: random.Random) -> None:
    pieces = stream(place.pair, chat_of(chance), None, SPECKV, MANY)
    pieces.cancel()
    for _ in pieces:
        pass
    assert pieces.answer.finish_reason == "cancelled"


def awaited_and_cancelled(place: Place, chance: random.Random) -> None:
    async def ask() -> None:
        task = asyncio.create_task(agenerate(place.pair, chat_of(chance), None, SPECKV, MANY))
        await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(ask())


def asked_of_a_context(place: Place, chance: random.Random) -> None:
    context = chance.choice(place.contexts)
    speckv = chance.choice([None, SPECKV])
    assert generate(place.pair, question(chance), None, speckv, 4, context=context).completion_tokens


def read_saved_and_loaded_a_context(place: Place, chance: random.Random) -> None:
    context = ContextCache.read(place.pair, " ".join(texts(chance)), keep=0.5)
    with tempfile.TemporaryDirectory() as folder:
        context.save(Path(folder) / "context")
        again = ContextCache.load(Path(folder) / "context", place.pair)
    assert again.tokens == context.tokens


def indexed_in_a_folder(place: Place, chance: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            compress(texts(random.Random(1)), question(chance), draft=place.pair, ratio=0.5, index=folder)


def with_models_of_its_own(place: Place, chance: random.Random) -> None:
    """What is kept for a model is forgotten with it."""
    pair = tiny_pair(chance.choice(["llama", "qwen3"]))
    compress(texts(chance), question(chance), draft=pair, ratio=0.5)
    generate(pair, chat_of(chance), None, SPECKV, 12, schema=SCHEMAS[1])
    ContextCache.read(pair, texts(chance)[0])


def refused(place: Place, chance: random.Random) -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: generate(place.pair, [], None, SPECKV, 4),
        lambda: generate(place.pair, "x", None, None, 0),
        lambda: generate(place.pair, "x", None, None, 4, no_such_option=1),
        lambda: compress(texts(chance), " ", draft=place.pair),
        lambda: compress(texts(chance), "x", draft=place.pair, ratio=2.0),
        lambda: stream(place.pair, "x", None, None, 4, num_beams=2),
        lambda: generate(place.pair, "x", SPECPC, None, 4, context=place.contexts[0]),
        lambda: generate(place.pair, "x", None, None, 4, schema={"type": "no such type"}),
        lambda: ContextCache.read(place.pair, "x", keep=2.0),
    ]
    with pytest.raises(ConfigError):
        chance.choice(wrong)()


def too_long(place: Place, chance: random.Random) -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: generate(place.pair, TOO_LONG, *methods(chance), 4),
        lambda: list(stream(place.pair, TOO_LONG, None, SPECKV, 4)),
        lambda: compress([TOO_LONG], "x", draft=place.pair, ratio=0.5, scoring="joint"),
        lambda: ContextCache.read(place.pair, TOO_LONG),
    ]
    with pytest.raises(PromptTooLongError):
        chance.choice(wrong)()


def broken_in_the_middle(place: Place, chance: random.Random) -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: generate(place.misspelt, chat_of(chance), *methods(chance), 4),
        lambda: list(stream(place.misspelt, chat_of(chance), None, SPECKV, 4)),
        lambda: generate(place.ailing_target, chat_of(chance), None, SPECKV, 4),
        lambda: list(stream(place.ailing_target, chat_of(chance), None, SPECKV, 4, prefill_chunk_size=40)),
        lambda: generate(place.ailing_draft, chat_of(chance), SPECPC, SPECKV, 4, prefill_chunk_size=40),
        lambda: compress(texts(chance), question(chance), draft=place.ailing_draft, ratio=0.3),
        lambda: compress(texts(chance), question(chance), draft=place.pair, ratio=0.3, scorer=_broken),
        lambda: ContextCache.read(place.ailing_target, texts(chance)[0]),
        lambda: asyncio.run(agenerate(place.ailing_target, chat_of(chance), None, SPECKV, 4)),
    ]
    with pytest.raises(Broken):
        chance.choice(wrong)()


# the server


def _ask(chance: random.Random, **given: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": chat_of(chance), "max_tokens": 4, **given}


def served(place: Place, chance: random.Random) -> None:
    documents = [{"text": text, "title": str(i)} for i, text in enumerate(texts(chance))]
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMAS[0]}}
    asks: list[tuple[str, dict[str, Any]]] = [
        ("chat/completions", _ask(chance)),
        ("chat/completions", _ask(chance, stream=True)),
        ("chat/completions", _ask(chance, documents=documents, spec_rag={"ratio": 0.5})),
        ("chat/completions", _ask(chance, response_format=schema, max_tokens=24)),
        ("completions", {"model": MODEL, "prompt": [question(chance), question(chance)], "max_tokens": 4}),
        ("compress", {"documents": documents, "query": question(chance), "ratio": 0.5}),
        ("compress", {"documents": documents, "query": question(chance), "ratio": 0.5, "stream": True}),
        ("rerank", {"documents": documents, "query": question(chance)}),
    ]
    path, body = chance.choice(asks)
    response = place.client.post(path, json=body)
    assert response.status_code == 200, response.text


def served_in_part(place: Place, chance: random.Random) -> None:
    """The client leaves in the middle of the stream."""
    body = _ask(chance, stream=True, max_tokens=MANY)
    with place.client.stream("POST", "chat/completions", json=body) as response:
        for _ in response.iter_raw():
            break


def served_to_nobody(place: Place, chance: random.Random) -> None:
    """The client is gone before there is an answer."""
    with suppress(httpx.TimeoutException):
        place.client.post("chat/completions", json=_ask(chance, max_tokens=MANY), timeout=0.05)


def served_an_error(place: Place, chance: random.Random) -> None:
    wrong: list[tuple[str, Any]] = [
        ("chat/completions", _ask(chance, temperature=9)),
        ("chat/completions", _ask(chance, model="other")),
        ("chat/completions", _ask(chance, messages=[{"role": "user", "content": TOO_LONG}])),
        ("chat/completions", _ask(chance, messages=[{"role": "user", "content": TOO_LONG}], stream=True)),
        ("chat/completions", {"messages": 7}),
        ("compress", {"documents": ["x"], "query": " "}),
        ("compress", {"documents": ["x"], "query": "x", "keep": ["(a+)+$"]}),
        ("no/such/page", {}),
    ]
    path, body = chance.choice(wrong)
    response = place.client.post(path, json=body)
    assert response.status_code in (400, 404, 422) or "error" in response.text
