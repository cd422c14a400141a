"""What stands before every request: an id, keys, limits, the bounded queue, metrics, one line of log.

Plain ASGI, so that streams pass through untouched. The log never has a word of a request or an answer: of an error
nobody expected it names kind and place.
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
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spec_rag.serving.errors import CLIENT_LEFT, ApiError, api_error, for_operators
from spec_rag.serving.metrics import Metrics
from spec_rag.serving.settings import ServerSettings

log = logging.getLogger("spec_rag.serving")

_COUNTED = "/v1/"
_OPEN = ("/health", "/metrics", "/app", "/openapi.json", "/docs")


class UpstreamCut(Exception):
    """The upstream broke off in the middle of a response: so does ours."""


class Front:
    """Wraps the application.

    Args:
        app: the application.
        settings: keys and limits.
        metrics: what is counted.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._keys = [_digest(key) for key in settings.api_keys]
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        seen = _Seen(scope, send)
        try:
            await self._admitted(scope, _Reading(receive, self._settings), seen)
        except asyncio.CancelledError:
            seen.failed = "cancelled"
            raise
        except ClientDisconnect:
            seen.failed = "client left"
        except UpstreamCut as error:
            seen.failed = f"upstream cut: {error}"
        except Exception as error:
            told = api_error(error)
            seen.failed = for_operators(error)
            if told is None:
                seen.failed = _place(error)
                told = ApiError(500, f"The server failed. Its log names this request: {seen.id}.", code="internal")
            if not seen.status:
                await seen.refuse(told)
        finally:
            self._note(scope, seen, time.perf_counter() - started)

    async def _admitted(self, scope: Scope, receive: _Reading, seen: _Seen) -> None:
        path = scope["path"]
        if self._keys and not path.startswith(_OPEN) and path != "/" and not self._knows(scope):
            self._metrics.refused.labels("key").inc()
            raise ApiError(
                401,
                "The API key is missing or wrong: send it as 'Authorization: Bearer KEY'.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if not path.startswith(_COUNTED) or scope["method"] != "POST":
            await self._app(scope, receive, seen)
            return
        if self._in_flight >= self._settings.max_requests:
            self._metrics.refused.labels("queue").inc()
            raise ApiError(
                429,
                f"{self._in_flight} requests run or wait already: try again in a moment.",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        receive.check_declared(scope)
        self._in_flight += 1
        self._metrics.in_flight.inc()
        # a client that has its whole answer may ask again at once: its place is free before it sees the end
        seen.before_end = self._free_place
        try:
            await self._app(scope, receive, seen)
        finally:
            seen.end()

    def _free_place(self) -> None:
        self._in_flight -= 1
        self._metrics.in_flight.dec()

    def _knows(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        # every key is compared, each in constant time
        matches = [hmac.compare_digest(digest, own) for own in self._keys]
        return kind.lower() == b"bearer" and any(matches)

    def _note(self, scope: Scope, seen: _Seen, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        left = seen.failed in ("client left", "cancelled") or seen.status == CLIENT_LEFT
        status = seen.status or (CLIENT_LEFT if left else 500)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if left:
            self._metrics.left.inc()
        line = {
            "event": "request",
            "id": seen.id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
            **scope.get("spec_rag", {}),
            **({"error": seen.failed} if seen.failed else {}),
        }
        log.log(logging.ERROR if status >= 500 else logging.INFO, json.dumps(line))


class _Seen:
    """Sends a response on, sees its status, and tells of its end before the client knows."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.id = uuid.uuid4().hex
        self.status = 0
        self.failed: str | None = None
        self.before_end: Callable[[], None] | None = None
        self._send = send
        self._bytes_left = math.inf
        scope["spec_rag"] = {}

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            declared = dict(message["headers"]).get(b"content-length")
            self._bytes_left = math.inf if declared is None else int(declared)
            message = {**message, "headers": [*message["headers"], (b"x-request-id", self.id.encode())]}
        elif message["type"] == "http.response.body":
            self._bytes_left -= len(message.get("body", b""))
            if self._bytes_left <= 0 or not message.get("more_body", False):
                self.end()
        await self._send(message)

    def end(self) -> None:
        """Tell that the response ends, once."""
        told, self.before_end = self.before_end, None
        if told is not None:
            told()

    async def refuse(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        named = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
        await self({"type": "http.response.start", "status": error.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


class _Reading:
    """Receives a body that is neither too long nor too slow."""

    def __init__(self, receive: Receive, settings: ServerSettings) -> None:
        self._receive = receive
        self._settings = settings
        self._bytes = 0
        self._whole = False

    def check_declared(self, scope: Scope) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._settings.max_body_bytes:
            raise self._too_long()

    async def __call__(self) -> Any:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._settings.body_timeout_seconds)
        except TimeoutError:
            late = ApiError(408, "The body did not come in time: send it faster.", code="body_timeout")
            raise late.raised_below() from late
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._settings.max_body_bytes:
            raise self._too_long().raised_below()
        self._whole = not message.get("more_body", False)
        return message

    def _too_long(self) -> ApiError:
        limit = self._settings.max_body_bytes
        return ApiError(413, f"The body is longer than {limit} bytes: send less.", code="body_too_long")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _place(error: BaseException) -> str:
    """Kind and place of an error, without its message, which may quote a document."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__} at " + " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(frames))
