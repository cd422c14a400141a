"""Server-sent events, and cancellation of work whose client has disconnected."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from spec_rag.serving.api_errors import ApiError, api_error, for_operators

log = logging.getLogger("spec_rag.serving")

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n\n"


class ClosingStream(StreamingResponse):
    """A streamed response that closes its source when the client disconnects or the server stops."""

    def __init__(self, source: AsyncGenerator[bytes, None], status_code: int = 200, **options: Any) -> None:
        super().__init__(source, status_code, **options)
        self._source = source

    async def aclose(self) -> None:
        """Close the source without sending it."""
        await self._source.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        ended = False

        async def watched(message: Any) -> None:
            nonlocal ended
            ended = ended or (message["type"] == "http.response.body" and not message.get("more_body"))
            await send(message)

        try:
            await super().__call__(scope, receive, watched)
        finally:
            await self._source.aclose()
        if not ended:
            raise ClientDisconnect


class Events(ClosingStream):
    """A response of server-sent events; a later error is sent as an event."""

    def __init__(self, source: AsyncGenerator[bytes, None], headers: dict[str, str] | None = None) -> None:
        named = {"Cache-Control": "no-cache", **(headers or {})}
        super().__init__(_with_errors(source), media_type="text/event-stream", headers=named)


async def _with_errors(source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events; an error becomes the last event."""
    try:
        async for item in source:
            yield item
    except Exception as error:
        response = api_error(error)
        if (fault := for_operators(error)) is not None:
            log.error(json.dumps({"event": "fault", "error": fault}))
        if response is None:
            yield event(ApiError(500, "The server failed.", code="internal").body())
            raise
        yield event(response.body())
    finally:
        await source.aclose()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await the work; cancel it if the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected.
    """
    working = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, disconnect):
            task.cancel()
        await asyncio.wait((working, disconnect))


async def _disconnected(request: Request) -> None:
    await request.body()
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def begun(request: Request, source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Wait for the first item of the source, so that an earlier error is an error response."""
    try:
        first = await while_connected(request, anext(source))
    except BaseException:
        await source.aclose()
        raise

    async def rest() -> AsyncGenerator[T, None]:
        try:
            yield first
            async for item in source:
                yield item
        finally:
            await source.aclose()

    return rest()
