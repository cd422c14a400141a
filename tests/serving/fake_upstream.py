"""An OpenAI-compatible server that notes what it is sent and answers as it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from serving.helpers import running

PIECES = ["It ", "holds ", "300 ", "litres."]


@dataclass
class Fake:
    """What came, and how it answers: "well", "badly", "busy", "never", "cut", "silent" or "stepwise".

    Stepwise: each piece but the first waits for its step to be released.
    """

    mood: str = "well"
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    open_streams: int = 0
    steps: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0), repr=False)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"object": "list", "data": [{"id": "big", "object": "model", "created": 1, "owned_by": "x"}]}

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            self.bodies.append(await request.body())
            self.headers.append(dict(request.headers))
            if self.mood == "badly":
                return JSONResponse({"error": {"message": "boom", "type": "server_error"}}, 503)
            if self.mood == "busy":
                return JSONResponse({"error": {"message": "later", "type": "rate"}}, 429, headers={"Retry-After": "7"})
            if self.mood == "never":
                while not await request.is_disconnected():
                    await asyncio.sleep(0.05)
            if json.loads(self.bodies[-1]).get("stream"):
                return StreamingResponse(self._stream(), media_type="text/event-stream")
            return JSONResponse(
                {
                    **_HEAD,
                    "object": "chat.completion",
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": "stop",
                            "message": {"role": "assistant", "content": "".join(PIECES)},
                        }
                    ],
                },
                headers={"x-own": "1"},
            )

        return app

    async def _stream(self) -> AsyncIterator[str]:
        self.open_streams += 1
        try:
            for i, piece in enumerate(PIECES):
                if self.mood == "cut" and i == 2:
                    raise RuntimeError("cut")
                while self.mood == "stepwise" and i and not self.steps.acquire(blocking=False):
                    await asyncio.sleep(0.01)
                if self.mood == "silent" and i == 2:
                    await asyncio.sleep(60)
                choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
                yield f"data: {json.dumps({**_HEAD, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.open_streams -= 1

    @contextmanager
    def running(self) -> Iterator[str]:
        with running(self.app()) as url:
            yield f"{url}/v1"


_HEAD = {"id": "c1", "created": 1, "model": "big"}
