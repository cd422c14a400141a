"""Many clients at once: none is lost, none gets another's answer, and who waits together is answered together."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from serving.helpers import FACTS, MODEL, engine, running, served, settings
from starlette.types import Message, Receive, Scope, Send

from spec_rag import generate
from spec_rag.serving.gateway_middleware import GatewayMiddleware
from spec_rag.serving.metrics import Metrics


def chat(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {i % 20}: how much is in tank {i % 20}?"}]


async def test_200_requests_at_16_at_a_time(record_property: pytest.RecordProperty) -> None:
    own = engine(endless=True)
    expected = [generate(own.pair, chat(i), max_new_tokens=6).text for i in range(20)]
    rows: list[int] = []
    own.pair.target.register_forward_pre_hook(
        lambda model, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    seconds: list[float] = []
    places = asyncio.Semaphore(16)

    async def ask(client: httpx.AsyncClient, url: str, i: int) -> str:
        body = {"model": MODEL, "messages": chat(i), "max_tokens": 6, "stream": i % 2 == 0}
        async with places:
            started = time.perf_counter()
            response = await client.post(f"{url}/v1/chat/completions", json=body)
            seconds.append(time.perf_counter() - started)
        assert response.status_code == 200
        if i % 2:
            return str(response.json()["choices"][0]["message"]["content"])
        chunks = [httpx.Response(200, content=line[6:]).json() for line in response.text.splitlines() if "{" in line]
        return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)

    # just as many places as clients: whoever has an answer must find a place for the next question
    with served(settings(max_requests=16, timeout_seconds=300), own) as url:
        async with httpx.AsyncClient(timeout=300) as client:
            with own.pair.lock.hold():  # until all 16 wait, so that batches do not hang on who comes first
                asking = [asyncio.create_task(ask(client, url, i)) for i in range(200)]
                while own.pair.lock.waiting < 17:
                    await asyncio.sleep(0.01)
            texts = await asyncio.gather(*asking)
            metrics = (await client.get(f"{url}/metrics")).text
    assert texts == [expected[i % 20] for i in range(200)]
    assert "spec_rag_in_flight_requests 0.0" in metrics
    assert "spec_rag_refused_total{" not in metrics
    assert "spec_rag_completion_tokens_total 1200.0" in metrics
    assert rows[0] == 8  # of the 16 that waited together
    print("p99 seconds", statistics.quantiles(seconds, n=100)[98], "mean rows", statistics.mean(rows))
    record_property("p99_seconds", statistics.quantiles(seconds, n=100)[98])
    record_property("mean_rows", statistics.mean(rows))


async def test_a_place_is_free_before_its_client_sees_the_end_of_the_answer() -> None:
    """One place, and a client that asks again at the last byte: it is never told that the place is taken."""

    class Slow(GatewayMiddleware):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def slowly(message: Message) -> None:
                await send(message)
                if message["type"] == "http.response.body":
                    await asyncio.sleep(0.2)  # time for the client to ask again

            await super().__call__(scope, receive, slowly)

    app = FastAPI()

    @app.post("/v1/whole")
    async def whole() -> dict[str, int]:
        return {"answer": 1}

    @app.post("/v1/stream")
    async def stream(declared: bool) -> StreamingResponse:
        headers = {"content-length": "5"} if declared else {}
        return StreamingResponse((piece for piece in (b"12", b"345")), headers=headers)

    app.add_middleware(Slow, settings=settings(max_requests=1), metrics=Metrics())
    with running(app) as url:
        async with httpx.AsyncClient(timeout=30) as client:
            for path in ("whole", "stream?declared=false", "stream?declared=true") * 2:
                assert (await client.post(f"{url}/v1/{path}")).status_code == 200


async def test_documents_of_one_request_never_reach_another() -> None:
    """Requests with the same question and other documents, at once, again and again, by different clients."""
    with served(settings(max_requests=64)) as url:
        async with httpx.AsyncClient(timeout=60) as client:

            async def ask(i: int) -> tuple[int, str, str]:
                word = f"zone{i % 6}x"
                documents = [{"title": title, "text": text.replace("water", word)} for title, text in FACTS]
                body = {"documents": documents, "query": "What does a tank hold?", "ratio": 0.4}
                shortened = await client.post(f"{url}/v1/compress", json=body)
                ordered = await client.post(
                    f"{url}/v1/rerank",
                    json={"documents": documents, "query": body["query"], "return_documents": True},
                )
                return i, shortened.text, ordered.text

            answers = await asyncio.gather(*(ask(i) for i in range(18)))
    for i, shortened, ordered in answers:
        for other in range(6):
            assert (f"zone{other}x" in shortened + ordered) == (other == i % 6)
