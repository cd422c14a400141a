"""The end of a server: requests that still run when its time is up are cut, and each of them learns why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from spec_rag.serving.api_errors import ApiError


def shutting_down() -> ApiError:
    """Status 503: the server ends, another try may find the next one."""
    return ApiError(503, "The server is shutting down: try again.", code="shutting_down", headers={"Retry-After": "1"})


class Shutdown:
    """The running requests of one server.

    Attributes:
        stopping: whether the server was told to stop.
        cut: how many requests were cut.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.cut = 0
        self._ended = False
        self._running: set[asyncio.Timeout] = set()

    @property
    def running(self) -> int:
        """How many requests run."""
        return len(self._running)

    def cut_running(self) -> None:
        """Cancel what runs, and what begins from now on. Call it from the event loop's thread."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        for one in list(self._running):
            one.reschedule(now)

    @asynccontextmanager
    async def running_request(self) -> AsyncGenerator[None, None]:
        """Run one request inside the block.

        Raises:
            ApiError: status 503; the request was cut.
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
