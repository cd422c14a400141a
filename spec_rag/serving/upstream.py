"""The server behind this one: requests are forwarded, and its responses reach the client as they arrive.

Its errors are the client's, too; what it breaks off is broken off. Headers, query and bodies pass byte for byte.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence

import httpx
from fastapi import Request, Response

from spec_rag.serving.api_errors import ApiError
from spec_rag.serving.event_stream import ClosingStream, while_connected
from spec_rag.serving.gateway_middleware import UpstreamCut
from spec_rag.serving.metrics import Metrics
from spec_rag.serving.settings import ServerSettings
from spec_rag.serving.upstream_usage import UsageReader
from spec_rag.utils.lru_cache import LRUCache

_ALIASES = 65_536
_CONNECT_SECONDS = 10.0
_READY_SECONDS = 5.0
# headers of one connection, or of one request as it is sent
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "host", "content-length", "accept-encoding", "expect"}
)
_SET_HERE = frozenset({"date", "server", "content-length"})
_CREDENTIALS = frozenset(
    {"authorization", "x-authorization", "cookie", "api-key", "apikey", "x-api-key", "x-api-token", "x-auth-token"}
    | {"x-access-token", "x-goog-api-key", "ocp-apim-subscription-key", "x-amz-security-token"}
)

Headers = list[tuple[str, str]]


class Upstream:
    """The server that answers.

    Credentials of clients are forwarded only where this server has no keys of its own: neither `api_keys` nor
    `upstream_key`.

    Attributes:
        aliases: last response of several rounds by the id that the client was given (see `expand_rounds`).

    Args:
        settings: its base URL, its key, and how long it may be silent.
        metrics: its failures are counted.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        assert settings.upstream is not None
        self._base = httpx.URL(settings.upstream.rstrip("/"))
        self._key = settings.upstream_key
        self._forwards_credentials = not settings.api_keys and settings.upstream_key is None
        self._metrics = metrics
        self.aliases: LRUCache[str, str] = LRUCache(_ALIASES)
        self._asked_at = -math.inf
        self._wrong: str | None = None
        timeout = httpx.Timeout(settings.timeout_seconds, connect=_CONNECT_SECONDS, pool=None)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=settings.max_requests)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def forward(self, request: Request, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Forward a request, and stream the response.

        Args:
            request: the client's; its method, query and headers are forwarded.
            path: below the upstream's base URL, percent-encoded and checked (see `forwarded_path`).
            body: of the forwarded request.
            headers: added to the response.

        Raises:
            ApiError: the upstream cannot be reached, or does not answer in time.
        """
        started = time.perf_counter()
        answer = await self.open(request, path, body)
        return self.respond(answer, self._pieces(request, answer, started), headers)

    async def open(self, request: Request, path: str, body: bytes, *, is_plain: bool = False) -> httpx.Response:
        """Forward a request, and return the response whose body has not been read yet.

        Args:
            request, path, body: as for `forward`.
            is_plain: ask for a body that is not encoded.

        Raises:
            ApiError: the upstream cannot be reached, or does not answer in time.
        """
        query = request.scope["query_string"]
        target = self._base.raw_path.rstrip(b"/") + b"/" + path.encode() + (b"?" + query if query else b"")
        forwarded = httpx.Request(
            request.method,
            self._base,
            content=body or None,
            headers=_encoded(self._headers(request, body, is_plain=is_plain)),
            extensions={"target": target},
        )
        try:
            answer = await while_connected(request, self._client.send(forwarded, stream=True))
        except httpx.TimeoutException as error:
            self._metrics.upstream_errors.labels("timeout").inc()
            raise ApiError(504, "The upstream did not answer in time.", code="upstream_timeout") from error
        except httpx.TransportError as error:
            self._metrics.upstream_errors.labels("unreachable").inc()
            raise ApiError(502, "The upstream cannot be reached.", code="upstream_unreachable") from error
        if answer.status_code >= 500:
            self._metrics.upstream_errors.labels("status").inc()
        return answer

    def respond(
        self,
        answer: httpx.Response,
        pieces: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        *,
        is_whole: bool = True,
    ) -> Response:
        """The response with the upstream's status and headers.

        Args:
            answer: of the upstream.
            pieces: of the body.
            headers: added.
            is_whole: whether the body is the upstream's, so that its length is known.
        """
        response = ClosingStream(pieces, answer.status_code)
        kept = [(name, value) for name, value in _end_to_end(answer.headers.raw) if name not in _SET_HERE]
        length = answer.headers.get("content-length")
        kept += [("content-length", length)] if length and is_whole else []
        kept += [(name.lower(), value) for name, value in headers.items()]
        response.raw_headers = _encoded(kept)
        return response

    async def _pieces(self, request: Request, answer: httpx.Response, started: float) -> AsyncGenerator[bytes, None]:
        is_events = answer.headers.get("content-type", "").startswith("text/event-stream")
        is_plain = "content-encoding" not in answer.headers
        usage = UsageReader(is_events)
        waits = is_events
        try:
            async for piece in answer.aiter_raw():
                if waits:
                    self._metrics.first_piece_seconds.observe(time.perf_counter() - started)
                    waits = False
                if is_plain:
                    usage.feed(piece)
                yield piece
            usage.end()
        except httpx.HTTPError as error:
            self._metrics.upstream_errors.labels("cut").inc()
            raise UpstreamCut(type(error).__name__) from error
        finally:
            await answer.aclose()
            self._note_usage(request, usage)

    def _note_usage(self, request: Request, usage: UsageReader) -> None:
        if not (usage.prompt_tokens or usage.completion_tokens):
            return
        self._metrics.count_upstream(usage.prompt_tokens, usage.completion_tokens)
        noted = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        request.scope.get("spec_rag", {}).update(noted)

    async def read(self, answer: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body of a response, decoded.

        Raises:
            UpstreamCut: it broke off.
        """
        try:
            async for piece in answer.aiter_bytes():
                yield piece
        except httpx.HTTPError as error:
            self._metrics.upstream_errors.labels("cut").inc()
            raise UpstreamCut(type(error).__name__) from error
        finally:
            await answer.aclose()

    async def what_is_wrong(self) -> str | None:
        """None where the upstream answers and takes the key, else what is wrong; asked at most every few seconds."""
        now = time.monotonic()
        if now - self._asked_at > _READY_SECONDS:
            self._asked_at, self._wrong = now, await self._ask()
        return self._wrong

    async def _ask(self) -> str | None:
        headers = {} if self._key is None else {"authorization": f"Bearer {self._key}"}
        timeout = httpx.Timeout(_READY_SECONDS).as_dict()
        try:
            asked = httpx.Request("GET", f"{self._base}/models", headers=headers, extensions={"timeout": timeout})
            answer = await self._client.send(asked)
        except httpx.HTTPError as error:
            return f"cannot be reached ({type(error).__name__})"
        if self._key is not None and answer.status_code in (401, 403):
            return f"refuses the key (status {answer.status_code})"
        return f"answers with status {answer.status_code}" if answer.status_code >= 500 else None

    def _headers(self, request: Request, body: bytes, *, is_plain: bool = False) -> Headers:
        headers = _end_to_end(request.headers.raw)
        if not self._forwards_credentials:
            headers = [(name, value) for name, value in headers if name not in _CREDENTIALS]
        if self._key is not None:
            headers.append(("authorization", f"Bearer {self._key}"))
        if body or request.method in ("POST", "PUT", "PATCH"):
            headers.append(("content-length", str(len(body))))
        headers.append(
            ("accept-encoding", "identity" if is_plain else request.headers.get("accept-encoding", "identity"))
        )
        return headers


def _end_to_end(raw: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers that do not belong to one connection, with lower-case names, in their order."""
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw]
    named = {part.strip().lower() for name, value in headers if name == "connection" for part in value.split(",")}
    return [(name, value) for name, value in headers if name not in _HOP_BY_HOP | named]


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
