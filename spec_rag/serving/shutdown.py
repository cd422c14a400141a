"""Graceful shutdown: running requests are cancelled with status 503 at the end of the time limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from spec_rag.serving.api_errors import ApiError


def shutting_down() -> ApiError:
    """Status 503 with Retry-After."""
    return ApiError(503, "The server is shutting down: try again.", code="shutting_down", headers={"Retry-After": "1"})


class Shutdown:
    """The running requests of one server.

    Attributes:
        stopping: whether shutdown has begun.
        cut: number of cancelled requests.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.cut = 0
        self._ended = False
        self._running: set[asyncio.Timeout] = set()

    @property
    def running(self) -> int:
        """Number of running requests."""
        return len(self._running)

    def cut_running(self) -> None:
        """Cancel running and later requests. Call it in the thread of the event loop."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        for timeout in list(self._running):
            timeout.reschedule(now)

    @asynccontextmanager
    async def running_request(self) -> AsyncGenerator[None, None]:
        """Run one request inside the block.

        Raises:
            ApiError: status 503: the request was cancelled by the shutdown.
        """
        scope = asyncio.timeout(0 if self._ended else None)
        self._running.add(scope)
        try:
            async with scope:
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            self.cut += 1
            raise shutting_down() from error
        finally:
            self._running.discard(scope)
