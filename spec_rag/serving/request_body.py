"""Request bodies: read completely before any work, with limits for length, time, nesting and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from spec_rag.serving.api_errors import ApiError
from spec_rag.serving.json_edits import check_depth
from spec_rag.serving.settings import ServerSettings

MIN_BYTES_PER_SECOND = 16 * 1024
_BUFFERED_BODIES = 16


class BodyReader:
    """Reads request bodies within the limits of the settings, and bounds their total memory."""

    def __init__(self, settings: ServerSettings) -> None:
        self._max_bytes = settings.max_body_bytes
        self._seconds = settings.body_timeout_seconds
        self._buffered = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """Read a body.

        Args:
            headers: request headers.
            receive: ASGI receive channel.

        Raises:
            ApiError: the body is too long (413), too slow (408) or nested too deeply (400), or concurrent bodies need
                too much memory (503).
            ClientDisconnect: the client disconnected.
        """
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise self._too_long()
        body = bytearray()
        try:
            await self._fill(body, receive)
        finally:
            self._buffered -= len(body)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if not kind or kind.endswith(b"json"):
            check_depth(bytes(body))
        return bytes(body)

    async def _fill(self, body: bytearray, receive: Receive) -> None:
        started = asyncio.get_running_loop().time()
        more = True
        while more:
            message = await self._next(receive, started + self._seconds + len(body) / MIN_BYTES_PER_SECOND)
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece = message.get("body", b"")
            if len(body) + len(piece) > self._max_bytes:
                raise self._too_long()
            if self._buffered + len(piece) > _BUFFERED_BODIES * self._max_bytes:
                raise ApiError(
                    503, "Too many long bodies at the same time: try again.", code="busy", headers={"Retry-After": "1"}
                )
            body += piece
            self._buffered += len(piece)
            more = message.get("more_body", False)

    async def _next(self, receive: Receive, deadline: float) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                return await receive()
        except TimeoutError as error:
            raise ApiError(
                408,
                f"The body did not arrive within {self._seconds:g} seconds: send it faster.",
                code="body_timeout",
                headers={"Connection": "close"},
            ) from error

    def _too_long(self) -> ApiError:
        return ApiError(413, f"The body is longer than {self._max_bytes} bytes: send less.", code="body_too_long")


def replayed(body: bytes, receive: Receive) -> Receive:
    """An ASGI channel that returns the body first, then continues with `receive`."""
    sent = False

    async def receive_again() -> Any:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
