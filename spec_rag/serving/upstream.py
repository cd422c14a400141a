"""The server behind this one: requests are handed on, and what it answers reaches the client as it comes.

Its errors are the client's, too; what it breaks off is broken off.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
from fastapi import Request, Response

from spec_rag.serving.errors import ApiError
from spec_rag.serving.front import UpstreamCut
from spec_rag.serving.metrics import Metrics
from spec_rag.serving.settings import ServerSettings
from spec_rag.serving.streams import ClosingStream, while_connected

_CONNECT_SECONDS = 10.0
# what belongs to one connection, or is said anew
_OWN = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "host", "date", "server", "content-length", "authorization", "accept-encoding", "expect"}
)


class Upstream:
    """The server that answers.

    Args:
        settings: where it is, its key, how long its silence is borne.
        metrics: its failures are counted.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        assert settings.upstream is not None
        self._base = settings.upstream.rstrip("/")
        self._key = settings.upstream_key
        self._hands_keys_on = not settings.api_keys
        self._metrics = metrics
        timeout = httpx.Timeout(settings.timeout_seconds, connect=_CONNECT_SECONDS, pool=None)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=settings.max_requests)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def forward(self, request: Request, path: str, body: bytes, headers: dict[str, str]) -> Response:
        """Hand a request on, and stream what comes back.

        Args:
            request: the client's; its headers are handed on.
            path: below the upstream's base URL.
            body: what is sent.
            headers: what the response has besides.

        Raises:
            ApiError: the upstream cannot be reached, or says nothing in time.
        """
        asked = self._client.build_request(
            request.method,
            f"{self._base}/{path}",
            params=request.query_params,
            content=body,
            headers=self._headers(request),
        )
        try:
            answer = await while_connected(request, self._client.send(asked, stream=True))
        except httpx.TimeoutException as error:
            self._metrics.upstream_errors.labels("timeout").inc()
            raise ApiError(504, "The upstream did not answer in time.", code="upstream_timeout") from error
        except httpx.TransportError as error:
            self._metrics.upstream_errors.labels("unreachable").inc()
            raise ApiError(502, "The upstream cannot be reached.", code="upstream_unreachable") from error
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN}
        if answer.status_code >= 500:
            self._metrics.upstream_errors.labels("status").inc()
        length = answer.headers.get("content-length")
        kept |= {"content-length": length} if length else {}
        return ClosingStream(self._pieces(answer), answer.status_code, headers={**kept, **headers})

    async def _pieces(self, answer: httpx.Response) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in answer.aiter_raw():
                yield piece
        except httpx.HTTPError as error:
            self._metrics.upstream_errors.labels("cut").inc()
            raise UpstreamCut(type(error).__name__) from error
        finally:
            await answer.aclose()

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN}
        given = request.headers.get("authorization")
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        elif given is not None and self._hands_keys_on:
            headers["authorization"] = given
        headers["accept-encoding"] = request.headers.get("accept-encoding", "identity")
        return headers
