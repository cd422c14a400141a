"""In front of `transformers serve`: a long conversation, streams, and an upstream that is stopped or killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from serving.helpers import engine, running, served, settings
from serving.ten_turns import check_ten_turns, hold_ten_turns
from tiny import saved, tiny_model

openai = pytest.importorskip("openai")
pytest.importorskip("transformers.cli.serving", reason="this transformers has no server", exc_type=ImportError)

COMMAND = shutil.which("transformers", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
ASK = [{"role": "user", "content": "How much does tank 3 hold?"}]
pytestmark = pytest.mark.skipif(COMMAND is None, reason="there is no command `transformers`")


@dataclass
class Server:
    """A `transformers serve` of its own process, and a wire to it that notes every byte of a chat."""

    url: str
    model: str
    process: subprocess.Popen[bytes]
    bodies: list[bytes] = field(default_factory=list)

    def wire(self) -> FastAPI:
        app = FastAPI()
        client = httpx.AsyncClient(timeout=600)

        @app.api_route("/{path:path}", methods=["GET", "POST"])
        async def hand_on(path: str, request: Request) -> Response:
            body = await request.body()
            self.bodies.append(body)
            headers = {"content-type": request.headers.get("content-type", "")}
            asked = client.build_request(request.method, f"{self.url}/{path}", content=body, headers=headers)
            answer = await client.send(asked, stream=True)
            kept = {"content-type": answer.headers["content-type"]}
            return StreamingResponse(answer.aiter_raw(), answer.status_code, kept)

        return app


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Server]:
    model = tiny_model(seed=2, layers=3, max_position_embeddings=32_768)
    model.lm_head.weight.data[1] = 0  # it never writes its end token
    folder = saved(model, tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(COMMAND), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    url = f"http://127.0.0.1:{port}"
    try:
        ends = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < ends:
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            time.sleep(0.2)
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200
        yield Server(url, str(folder), process)
    finally:
        process.kill()
        process.wait()


def test_transformers_serve_behind_it(upstream: Server) -> None:
    """One test, since starting that server takes its time."""
    fronts = {
        seconds: settings(target=None, upstream=f"{upstream.url}/v1", timeout_seconds=float(seconds))
        for seconds in (1, 300)
    }
    with running(upstream.wire()) as wire:
        own = settings(target=None, upstream=f"{wire}/v1", timeout_seconds=300.0)
        with served(own, engine()) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300)
            spent = hold_ten_turns(client, upstream.model, max_tokens=6)
    check_ten_turns(upstream.bodies, spent)

    with served(fronts[300], engine()) as url, served(fronts[1], engine()) as impatient:
        chat: dict[str, Any] = {"model": upstream.model, "messages": ASK, "max_tokens": 6}
        # its own refusal is the client's
        own_refusal = httpx.post(f"{upstream.url}/v1/chat/completions", json={**chat, "top_pp": 1}, timeout=300)
        refusal = httpx.post(f"{url}/v1/chat/completions", json={**chat, "top_pp": 1}, timeout=300)
        assert own_refusal.status_code == refusal.status_code != 200
        assert own_refusal.content == refusal.content
        # it stands still: a client is told after its silence, and is answered once it goes on
        upstream.process.send_signal(signal.SIGSTOP)
        late = httpx.post(f"{impatient}/v1/chat/completions", json=chat, timeout=300)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "upstream_timeout")
        upstream.process.send_signal(signal.SIGCONT)
        assert httpx.post(f"{url}/v1/chat/completions", json=chat, timeout=300).status_code == 200
        # it is killed in the middle of a stream: the stream breaks off, and the next request is a 502
        got: list[str] = []
        long = {**chat, "max_tokens": 20_000, "stream": True}
        with pytest.raises(httpx.RemoteProtocolError):
            _kill_after_three_lines(f"{url}/v1/chat/completions", long, upstream, got)
        assert len(got) >= 3
        assert not any("[DONE]" in line or '"finish_reason":"' in line for line in got)
        upstream.process.wait()
        gone = httpx.post(f"{url}/v1/chat/completions", json=chat, timeout=300)
        assert (gone.status_code, gone.json()["error"]["code"]) == (502, "upstream_unreachable")


def _kill_after_three_lines(url: str, body: dict[str, Any], upstream: Server, got: list[str]) -> None:
    with httpx.stream("POST", url, json=body, timeout=300) as response:
        for line in response.iter_lines():
            got.append(line)
            if len(got) == 3:
                upstream.process.kill()
