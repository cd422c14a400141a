"""A server with tiny models, in this process or on a port of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import uvicorn
from readings import reading_of, words
from tiny import tiny_pair

from spec_rag.compression.compress import keep
from spec_rag.options.compression import CompressionConfig
from spec_rag.report import Compression
from spec_rag.results import Answer
from spec_rag.serving.app import create_app
from spec_rag.serving.engine import Engine, GenerationRequest, LocalEngine
from spec_rag.serving.settings import ServerSettings
from spec_rag.text.documents import Document, as_documents
from spec_rag.text.units import unit_spans

MODEL = "tiny-target"
FACTS = [
    ("Tank", " ".join(f"Tank {i} holds {i * 100} litres of water." for i in range(12))),
    ("Food", " ".join(f"Soup number {i} is served hot at noon." for i in range(12))),
]


def settings(**given: Any) -> ServerSettings:
    defaults: dict[str, Any] = {
        "draft": "tiny-draft",
        "target": MODEL,
        "max_completion_tokens": 400,
        "default_completion_tokens": 8,
        "timeout_seconds": 60.0,
        "min_chars": 200,
    }
    return ServerSettings(**{**defaults, **given})


def engine(timeout_seconds: float | None = 60.0, *, endless: bool = False, template: str | None = None) -> LocalEngine:
    """Tiny models; `endless` ones never write an end token."""
    pair = tiny_pair()
    if endless:
        pair.target.generation_config.eos_token_id = None
        pair.target.lm_head.weight.data[1] = 0
    if template is not None:
        pair.tokenizer.chat_template = template
    return LocalEngine(pair, timeout_seconds=timeout_seconds)


class Light:
    """An engine without models: a text's units are scored by their content, and each word is a token."""

    kv_bytes_per_token = None

    async def compress(
        self, documents: Sequence[Document], query: str, config: CompressionConfig, listener: Any = None
    ) -> Compression:
        texts = [document.text for document in documents]
        pieces = [text[a:b] for text in texts for a, b in unit_spans(text, "sentence")]
        reading = reading_of(texts, [zlib.crc32(piece.encode("utf-8", "replace")) / 2**31 - 1 for piece in pieces])
        return keep(replace(reading, documents=as_documents(documents)), config, words)

    async def count(self, texts: Sequence[str]) -> int:
        return sum(map(words, texts))


class Endless(LocalEngine):
    """An engine whose streams never end, and which counts those that were closed."""

    closed = 0

    async def stream(self, ask: GenerationRequest) -> AsyncGenerator[str | Answer, None]:
        try:
            while True:
                yield "word "
                await asyncio.sleep(0.01)
        finally:
            self.closed += 1


@contextmanager
def served(given: ServerSettings | None = None, own: Engine | Any = None, **options: Any) -> Iterator[str]:
    """The base URL of a server that runs in a thread."""
    app = create_app(given or settings(), own or engine())
    with running(app, **options) as url:
        yield url


@contextmanager
def running(app: Any, **options: Any) -> Iterator[str]:
    """The base URL of an ASGI application that runs in a thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # uvicorn's own log_config would close every handler that there is, and with it what pytest captures in
    config = uvicorn.Config(app, port=port, log_config=None, log_level="critical", **options)
    server = uvicorn.Server(config)
    app.state.uvicorn = server
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(600):
        if server.started:
            break
        time.sleep(0.02)
    assert server.started
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait until it holds; whether it did in time."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.02)
    return False
