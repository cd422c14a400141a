"""What stands before every request: an id, hosts, keys, limits, the bounded queue, metrics, one line of log.

Plain ASGI, so that streams pass through untouched. The log never has a word of a request or an answer: of an unexpected
error it names kind and place.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import math
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spec_rag.serving.api_errors import CLIENT_LEFT, ApiError, api_error, for_operators
from spec_rag.serving.hosts import check_host
from spec_rag.serving.metrics import Metrics
from spec_rag.serving.request_body import BodyReader, replayed
from spec_rag.serving.settings import ServerSettings
from spec_rag.serving.shutdown import Shutdown

log = logging.getLogger("spec_rag.serving")

_QUEUED = ("POST", "PUT", "PATCH")
_OPEN = ("/", "/health", "/ready", "/metrics", "/openapi.json", "/docs", "/app")


class UpstreamCut(Exception):
    """The upstream broke off in the middle of a response: so does ours."""


class GatewayMiddleware:
    """Wraps the application.

    Args:
        app: the application.
        settings: hosts, keys and limits.
        metrics: what is counted.
        shutdown: the requests that run.
        routes: of the application; a request that is refused before it comes there is counted under its route.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        metrics: Metrics,
        shutdown: Shutdown,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._app = app
        self._routes = routes
        self._settings = settings
        self._metrics = metrics
        self._shutdown = shutdown
        self._bodies = BodyReader(settings)
        self._keys = [_digest(key) for key in settings.api_keys]
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        response = ResponseTracker(scope, send, self._settings.timeout_seconds)
        try:
            async with self._shutdown.running_request():
                await self._admitted(scope, receive, response)
        except asyncio.CancelledError:
            response.failed = "cancelled"
            raise
        except ClientDisconnect:
            response.failed = "client left"
        except UpstreamCut as error:
            response.failed = f"upstream cut: {error}"
        except Exception as error:
            answer = api_error(error)
            response.failed = for_operators(error)
            if answer is not None and answer.code == "shutting_down":
                response.failed = "cut at shutdown"
            if answer is None:
                response.failed = _place(error)
                message = f"The server failed. Its log names this request: {response.id}."
                answer = ApiError(500, message, code="internal")
            await response.fail(answer)
        finally:
            self._note(scope, response, time.perf_counter() - started)

    async def _admitted(self, scope: Scope, receive: Receive, response: ResponseTracker) -> None:
        headers = dict(scope["headers"])
        check_host(headers.get(b"host"), self._settings.allowed_hosts)
        if self._keys and not _is_open(scope["path"]) and not self._knows(headers.get(b"authorization", b"")):
            self._metrics.refused.labels("key").inc()
            raise ApiError(
                401,
                "The API key is missing or wrong: send it as 'Authorization: Bearer KEY'.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        queued = scope["method"] in _QUEUED
        if queued:
            self._check_queue()
        # a slow body holds no place of the queue
        receive = replayed(await self._bodies.read(headers, receive), receive)
        if not queued:
            await self._app(self._with_get_for_head(scope), receive, response)
            return
        self._check_queue()
        self._in_flight += 1
        self._metrics.in_flight.inc()
        # a client that has its whole answer may ask again at once: its place is free before it sees the end
        response.before_end = self._free_place
        try:
            await self._app(scope, receive, response)
        finally:
            response.end()

    def _with_get_for_head(self, scope: Scope) -> Scope:
        """Every route that answers GET answers HEAD; an upstream answers its own."""
        if scope["method"] != "HEAD" or (self._settings.upstream is not None and scope["path"].startswith("/v1/")):
            return scope
        return {**scope, "method": "GET"}

    def _check_queue(self) -> None:
        if self._in_flight < self._settings.max_requests:
            return
        self._metrics.refused.labels("queue").inc()
        raise ApiError(
            429,
            f"{self._in_flight} requests run or wait already: try again in a moment.",
            code="queue_full",
            headers={"Retry-After": "1"},
        )

    def _free_place(self) -> None:
        self._in_flight -= 1
        self._metrics.in_flight.dec()

    def _knows(self, authorization: bytes) -> bool:
        kind, _, key = authorization.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        # every key is compared, each in constant time
        matches = [hmac.compare_digest(digest, own) for own in self._keys]
        return kind.lower() == b"bearer" and any(matches)

    def _note(self, scope: Scope, response: ResponseTracker, seconds: float) -> None:
        route = _route(scope, self._routes)
        left = response.failed in ("client left", "cancelled") or response.status == CLIENT_LEFT
        status = response.status or (CLIENT_LEFT if left else 500)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if left:
            self._metrics.left.inc()
        client = scope.get("client")
        line = {
            "event": "request",
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": response.id,
            "client": client[0] if client else None,
            "method": scope["method"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
            **scope.get("spec_rag", {}),
            **({"error": response.failed} if response.failed else {}),
        }
        log.log(logging.ERROR if status >= 500 else logging.INFO, json.dumps(line))


class ResponseTracker:
    """Sends a response on, notes its status, and says that it ends before the client knows.

    Args:
        scope: of the request.
        send: ASGI's channel of the response.
        send_seconds: how long a client may take to receive a piece.
    """

    def __init__(self, scope: Scope, send: Send, send_seconds: float) -> None:
        self.id = uuid.uuid4().hex
        self.status = 0
        self.failed: str | None = None
        self.before_end: Callable[[], None] | None = None
        self._send = send
        self._send_seconds = send_seconds
        self._bytes_left = math.inf
        self._is_events = False
        self._ended = False
        self._has_body = scope["method"] != "HEAD"
        scope["spec_rag"] = {}

    async def __call__(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = dict(message["headers"])
            declared = headers.get(b"content-length")
            self._bytes_left = math.inf if declared is None else int(declared)
            self._is_events = declared is None and headers.get(b"content-type", b"").startswith(b"text/event-stream")
            if b"x-request-id" not in headers:
                message = {**message, "headers": [*message["headers"], (b"x-request-id", self.id.encode())]}
        elif message["type"] == "http.response.body":
            self._bytes_left -= len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
            if self._bytes_left <= 0 or self._ended:
                self.end()
            message = message if self._has_body else {**message, "body": b""}
        try:
            async with asyncio.timeout(self._send_seconds):
                await self._send(message)
        except TimeoutError as error:  # the client does not read
            raise ClientDisconnect from error

    def end(self) -> None:
        """Say that the response ends, once."""
        before_end, self.before_end = self.before_end, None
        if before_end is not None:
            before_end()

    async def fail(self, error: ApiError) -> None:
        """Tell the client of an error: as a response, or as the last event of a stream."""
        body = json.dumps(error.body()).encode()
        if self._ended:
            return
        if self.status:
            if self._is_events:
                await self({"type": "http.response.body", "body": b"\n\ndata: " + body + b"\n\n"})
            return
        named = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
        await self({"type": "http.response.start", "status": error.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in _OPEN or path.startswith("/app/")


def _route(scope: Scope, routes: Sequence[BaseRoute]) -> str:
    """The path of the route that a request belongs to, also where it was refused before it came there."""
    found = getattr(scope.get("route"), "path", None)
    if found:
        return str(found)
    matching = (getattr(route, "path", None) for route in routes if route.matches(scope)[0] is not Match.NONE)
    return str(next((path for path in matching if path), "other"))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _place(error: BaseException) -> str:
    """Kind and place of an error, without its message, which may quote a document."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__} at " + " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(frames))
