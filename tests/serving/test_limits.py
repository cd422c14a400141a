"""What stands before requests: keys, sizes, the queue, time; clients that leave, a server that stops, a log."""

from __future__ import annotations

import asyncio
import json
import logging
import select
import socket
import threading
import time

import httpx
import pytest
from serving.helpers import FACTS, MODEL, Endless, engine, running, served, settings, until

from spec_rag.results import Answer
from spec_rag.serving.app import create_app
from spec_rag.serving.engine import GenerationRequest
from spec_rag.serving.json_edits import MAX_DEPTH
from spec_rag.serving.listener import http_protocol

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "How much water?"}]}
LONG = {**ASK, "max_tokens": 400, "stream": True}


def error_of(response: httpx.Response) -> dict[str, object]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    return body["error"]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic right", "right", "Bearer right2", "Bearer rïght"]
)
def test_a_wrong_key_is_refused(keyed: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for response in (
        httpx.post(f"{keyed}/v1/chat/completions", json=ASK, headers=headers),
        httpx.get(f"{keyed}/v1/models", headers=headers),
        httpx.post(f"{keyed}/v1/compress", content=b"not even JSON", headers=headers),
    ):
        assert response.status_code == 401
        assert error_of(response)["code"] == "invalid_api_key"


@pytest.fixture(scope="module")
def keyed() -> str:  # type: ignore[misc]
    with served(settings(api_keys=("left", "right"))) as base:
        yield base


def test_each_of_the_keys_lets_in_and_health_needs_none(keyed: str) -> None:
    for key in ("left", "right"):
        response = httpx.get(f"{keyed}/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == 200
    assert httpx.get(f"{keyed}/health").json()["status"] == "ok"
    assert "spec_rag_refused_total" in httpx.get(f"{keyed}/metrics").text


def test_a_body_that_is_too_long_is_refused_declared_or_not() -> None:
    with served(settings(max_body_bytes=1000)) as url:
        big = json.dumps({**ASK, "user": "x" * 2000}).encode()

        def pieces():  # type: ignore[no-untyped-def]
            for i in range(0, len(big), 100):
                yield big[i : i + 100]

        for content in (big, pieces()):
            response = httpx.post(f"{url}/v1/chat/completions", content=content)
            assert response.status_code == 413
            assert error_of(response)["code"] == "body_too_long"
        assert httpx.post(f"{url}/v1/chat/completions", json=ASK).status_code == 200


def test_a_body_that_is_nested_too_deeply_is_refused_also_where_it_could_be_parsed() -> None:
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    with served() as url:
        response = httpx.post(f"{url}/v1/chat/completions", content=b'{"model": ' + deep + b"}")
    assert (response.status_code, error_of(response)["code"]) == (400, "nested_too_deeply")


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    with served(settings(body_timeout_seconds=0.2)) as url, socket.create_connection(url[7:].split(":")) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n{")
        client.settimeout(5)
        assert client.recv(4096).startswith(b"HTTP/1.1 408")


async def test_the_queue_is_bounded_and_what_is_in_it_is_answered() -> None:
    own = engine(endless=True)
    with served(settings(max_requests=3), own) as url:
        async with httpx.AsyncClient(timeout=60) as client:
            with own.pair.lock.hold():
                waiting = [asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=ASK)) for _ in range(3)]
                while "in_flight_requests 3.0" not in (await client.get(f"{url}/metrics")).text:
                    await asyncio.sleep(0.02)
                refused = await client.post(f"{url}/v1/chat/completions", json=ASK)
                assert (await client.get(f"{url}/health")).status_code == 200
            assert [task.status_code for task in await asyncio.gather(*waiting)] == [200, 200, 200]
            assert (await client.post(f"{url}/v1/chat/completions", json=ASK)).status_code == 200
    assert (refused.status_code, error_of(refused)["code"]) == (429, "queue_full")
    assert refused.headers["retry-after"] == "1"


def test_an_answer_that_takes_too_long_is_an_error_also_in_the_middle_of_a_stream() -> None:
    own = engine(timeout_seconds=1.5, endless=True)
    step = own.pair.target.forward
    own.pair.target.forward = lambda *args, **given: (time.sleep(0.03), step(*args, **given))[1]
    with served(own=own) as url:
        response = httpx.post(f"{url}/v1/chat/completions", json={**ASK, "max_tokens": 400})
        streamed = httpx.post(f"{url}/v1/chat/completions", json=LONG)
    assert (response.status_code, error_of(response)["code"]) == (504, "timeout")
    events = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert json.loads(events[-1])["error"]["code"] == "timeout"
    assert len(events) > 2


def test_an_answer_may_take_longer_than_headers_may() -> None:
    own = engine()
    answer = own.answer

    async def late(ask: GenerationRequest) -> Answer:
        await asyncio.sleep(1.0)
        return await answer(ask)

    own.answer = late  # type: ignore[method-assign]
    with served(own=own, http=http_protocol(0.5)) as url:
        assert httpx.post(f"{url}/v1/chat/completions", json=ASK).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_hang_up_leave_no_work_running(stream: bool, record_property: pytest.RecordProperty) -> None:
    own = engine(endless=True)
    app = create_app(settings(max_requests=64, max_completion_tokens=3000), own)
    body = json.dumps({**LONG, "stream": stream, "max_tokens": 3000}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: a", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
    closing, steps = threading.Event(), []
    step = own.pair.target.forward

    def counted(*args, **given):  # type: ignore[no-untyped-def]
        if closing.is_set():
            steps.append(1)
        return step(*args, **given)

    own.pair.target.forward = counted
    with running(app) as url:
        host, port = url[7:].split(":")
        clients = [socket.create_connection((host, int(port))) for _ in range(20)]
        with own.pair.lock.hold():
            for client in clients:
                client.sendall(head + body)
            assert until(lambda: own.pair.lock.waiting == 21)
        if stream:  # somebody is being answered
            assert select.select(clients, [], [], 60.0)[0]
        closing.set()
        closed = time.monotonic()
        for client in clients:
            client.close()
        assert until(lambda: own.pair.lock.waiting == 0)
        assert until(lambda: not [t for t in threading.enumerate() if t.name.startswith("spec-rag")])
        record_property("seconds_until_quiet", time.monotonic() - closed)
        print("seconds until quiet", time.monotonic() - closed, "steps", len(steps))
        # at least three batches of 3000 steps would have been left to do
        assert len(steps) < 1000
        assert httpx.post(f"{url}/v1/chat/completions", json=ASK, timeout=60).status_code == 200
        metrics = httpx.get(f"{url}/metrics").text
    assert "spec_rag_in_flight_requests 0.0" in metrics
    assert "spec_rag_clients_left_total 20.0" in metrics


def test_a_server_that_is_stopped_finishes_what_runs_and_takes_no_more() -> None:
    own = engine(endless=True)
    step = own.pair.target.forward
    own.pair.target.forward = lambda *args, **given: (time.sleep(0.01), step(*args, **given))[1]
    app = create_app(settings(), own)
    with running(app) as url:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json={**LONG, "max_tokens": 60}, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            app.state.uvicorn.should_exit = True  # what a signal sets
            assert until(lambda: not _is_up(url))
            rest = "\n".join(lines)
        assert rest.rstrip().endswith("data: [DONE]")
        assert rest.count("data: {") >= 2


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_the_log_has_figures_and_no_word_of_a_document(caplog: pytest.LogCaptureFixture) -> None:
    own = engine(endless=True)
    secret = "xylophone"
    documents = [text.replace("water", secret) for _, text in FACTS]
    with served(own=own) as url, caplog.at_level(logging.DEBUG, logger="spec_rag.serving"):
        chat = {**ASK, "documents": documents, "messages": [{"role": "user", "content": f"What is {secret}?"}]}
        assert httpx.post(f"{url}/v1/chat/completions", json=chat).status_code == 200
        assert httpx.post(f"{url}/v1/compress", json={"documents": documents, "query": secret}).status_code == 200
        assert httpx.post(f"{url}/v1/compress", json={"documents": documents, "query": " "}).status_code == 400

        async def fail(*args: object, **given: object) -> None:
            raise RuntimeError(f"It was about {secret}")

        own.compress = own.answer = fail  # type: ignore[method-assign]
        failed = httpx.post(f"{url}/v1/compress", json={"documents": documents, "query": secret})
        assert until(lambda: len(caplog.records) == 4)
    assert failed.status_code == 500
    assert secret not in failed.text
    assert secret not in caplog.text
    lines = [json.loads(record.message) for record in caplog.records]
    assert [line["status"] for line in lines] == [200, 200, 400, 500]
    assert lines[0]["prompt_tokens"] > 0
    assert lines[1]["tokens_after"] < lines[1]["tokens_before"]
    assert lines[3]["error"].startswith("RuntimeError at ")
    assert lines[3]["id"] in failed.text


def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_it() -> None:
    own = Endless(engine().pair)
    with served(own=own) as url:
        for _ in range(5):
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=LONG) as response:
                pieces = response.iter_bytes()
                assert b"data: " in next(pieces)
        assert until(lambda: own.closed == 5)
        assert until(lambda: "in_flight_requests 0.0" in httpx.get(f"{url}/metrics").text)


def test_answers_of_several_prompts_are_counted_with_n() -> None:
    with served(settings(max_requests=4)) as url:
        body = {"model": MODEL, "prompt": ["One", "Two", "Three"], "n": 2, "max_tokens": 2}
        refused = httpx.post(f"{url}/v1/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
        assert "3 prompts with n=2: at most 4 answers" in refused.json()["error"]["message"]
        answers = httpx.post(f"{url}/v1/completions", json={**body, "prompt": body["prompt"][:2]}, timeout=60)
        assert [choice["index"] for choice in answers.json()["choices"]] == [0, 1, 2, 3]
