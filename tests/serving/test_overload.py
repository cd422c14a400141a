"""Under overload the first requests are answered before the last are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import pytest
from serving.helpers import FACTS, MODEL, engine, served, settings

from spec_rag.results import Answer
from spec_rag.serving.engine import GenerationRequest, LocalEngine
from spec_rag.text.documents import Document

CLIENTS = 48


class InTurn(LocalEngine):
    """An engine on one lock, as where draft and target are one model; it notes what it does."""

    def __init__(self) -> None:
        super().__init__(engine().pair)
        self.log: list[str] = []
        self.turn = asyncio.Lock()

    async def compress(self, documents: Sequence[Document], query: str, *rest: Any) -> Any:
        async with self.turn:
            self.log.append("read")
            return await super().compress(documents, query, *rest)

    async def answer(self, ask: GenerationRequest) -> Answer:
        async with self.turn:
            self.log.append("answered")
            return Answer("Yes.", [1], 5, 5, 1)

    async def stream(self, ask: GenerationRequest) -> AsyncGenerator[str | Answer, None]:
        async with self.turn:
            self.log.append("answered")
        yield "Yes."
        yield Answer("Yes.", [1], 5, 5, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_requests_are_answered_before_the_last_are_read(stream: bool) -> None:
    own = InTurn()
    body = {"model": MODEL, "documents": [text for _, text in FACTS], "stream": stream}
    with served(settings(max_requests=64), own) as url:
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=64)) as client:

            async def ask(i: int) -> int:
                messages = [{"role": "user", "content": f"How much does tank {i} hold?"}]
                return (
                    await client.post(f"{url}/v1/chat/completions", json={**body, "messages": messages})
                ).status_code

            assert await asyncio.gather(*(ask(i) for i in range(CLIENTS))) == [200] * CLIENTS
    half = [i for i, one in enumerate(own.log) if one == "answered"][CLIENTS // 2 - 1]
    assert own.log[: half + 1].count("read") <= CLIENTS // 2 + 8
    assert own.log.count("read") == CLIENTS


async def test_a_client_that_leaves_gives_its_turn_back() -> None:
    own = InTurn()
    with served(settings(max_requests=64), own) as url:
        documents = [text for _, text in FACTS]
        for i in range(20):
            messages = [{"role": "user", "content": f"How much does tank {i} hold?"}]
            body = {"model": MODEL, "documents": documents, "messages": messages}
            async with httpx.AsyncClient(timeout=0.02 if i % 2 else 60) as client:
                try:
                    await client.post(f"{url}/v1/chat/completions", json=body)
                except httpx.TimeoutException:
                    continue
        async with httpx.AsyncClient(timeout=60) as client:
            assert (await client.post(f"{url}/v1/chat/completions", json=body | {"stream": True})).status_code == 200
