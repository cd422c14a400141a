"""The body of a request, read whole before any work begins: neither too long, nor too slow, nor nested too deeply."""

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
    """Reads the bodies of one server's requests, and bounds the memory that they take together.

    Args:
        settings: the longest body, and the time for it: `body_timeout_seconds`, and a second more for each 16 KiB.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._max_bytes = settings.max_body_bytes
        self._seconds = settings.body_timeout_seconds
        self._buffered = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body.

        Args:
            headers: of the request.
            receive: ASGI's channel of the request.

        Raises:
            ApiError: the body is too long (413), too slow (408), nested too deeply (400), or the bodies that arrive
                just now take too much memory (503).
            ClientDisconnect: the client left before the end of the body.
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
                    503, "Too many long bodies arrive at once: try again.", code="busy", headers={"Retry-After": "1"}
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
    """A channel that gives the whole body first, and then what `receive` gives."""
    given = False

    async def receive_again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
