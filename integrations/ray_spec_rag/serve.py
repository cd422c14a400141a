"""The server on Ray Serve, with replicas of draft and target.

serve run ray_spec_rag.serve:application target_replicas=2 draft_replicas=2 front_replicas=2
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from spec_rag.errors import unknown_field
from spec_rag.options.compression import CompressionConfig, SpecKVConfig
from spec_rag.report import Compression
from spec_rag.results import Answer
from spec_rag.serving.api_errors import ApiError, api_error
from spec_rag.serving.app import create_app
from spec_rag.serving.engine import GenerationRequest, LocalEngine
from spec_rag.serving.settings import ServerSettings
from spec_rag.text.documents import Document
from spec_rag.utils.progress import Listener

_ATTEMPTS = 3  # a replica may die, and another answer
_WAIT_SECONDS = 0.5  # before the second attempt; twice as long before the third

T = TypeVar("T")


class DraftReplica:
    """Deployment of the draft."""

    def __init__(self, settings: ServerSettings) -> None:
        self._engine = LocalEngine.load(settings, answers=False)

    async def compress(self, documents: Sequence[Document], query: str, config: CompressionConfig) -> Compression:
        """See `spec_rag.serving.engine.Engine`."""
        return await self._engine.compress(documents, query, config)

    async def relevance(self, documents: Sequence[Document], query: str, config: CompressionConfig) -> list[float]:
        """See `spec_rag.serving.engine.Engine`."""
        return await self._engine.relevance(documents, query, config)

    async def shortened(self, documents: Sequence[Document], max_tokens: int) -> list[Document]:
        """See `spec_rag.serving.engine.Engine`."""
        return await self._engine.shortened(documents, max_tokens)

    async def count(self, texts: Sequence[str]) -> int:
        """See `spec_rag.serving.engine.Engine`."""
        return await self._engine.count(texts)


class TargetReplica:
    """Deployment of the target; waiting requests are answered in batches."""

    def __init__(self, settings: ServerSettings) -> None:
        self._engine = LocalEngine.load(settings, reads=False)

    async def answer(self, request: GenerationRequest) -> Answer:
        """See `spec_rag.serving.engine.Engine`."""
        return await self._engine.answer(request)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[str | Answer, None]:
        """See `spec_rag.serving.engine.Engine`."""
        async for piece in self._engine.stream(request):
            yield piece


class RayEngine:
    """Engine of both deployments. A request whose replica dies is repeated, unless its stream has begun.

    Attempts are separated by growing random waits, so that the requests of a dead replica do not arrive together at the
    others. A request that finds a full queue is refused with status 429 and not repeated.

    Args:
        draft, target: handles of the deployments.
    """

    kv_bytes_per_token: int | None = None

    def __init__(self, draft: Any, target: Any) -> None:
        self._draft = draft
        self._target = target

    async def compress(
        self, documents: Sequence[Document], query: str, config: CompressionConfig, listener: Listener | None = None
    ) -> Compression:
        """See `spec_rag.serving.engine.Engine`; progress is not reported."""
        return await _asked(lambda: self._draft.compress.remote(list(documents), query, config))

    async def relevance(self, documents: Sequence[Document], query: str, config: CompressionConfig) -> list[float]:
        """See `spec_rag.serving.engine.Engine`."""
        return await _asked(lambda: self._draft.relevance.remote(list(documents), query, config))

    async def shortened(self, documents: Sequence[Document], max_tokens: int) -> list[Document]:
        """See `spec_rag.serving.engine.Engine`."""
        return await _asked(lambda: self._draft.shortened.remote(list(documents), max_tokens))

    async def count(self, texts: Sequence[str]) -> int:
        """See `spec_rag.serving.engine.Engine`."""
        return await _asked(lambda: self._draft.count.remote(list(texts)))

    async def answer(self, request: GenerationRequest) -> Answer:
        """See `spec_rag.serving.engine.Engine`."""
        return await _asked(lambda: self._target.answer.remote(request))

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[str | Answer, None]:
        """See `spec_rag.serving.engine.Engine`."""
        begun = False
        for attempt in range(_ATTEMPTS):
            await _wait(attempt)
            pieces = self._target.options(stream=True).stream.remote(request)
            try:
                async for piece in pieces:
                    begun = True
                    yield piece
                return
            except (RayError, RayServeException) as error:
                cause = _client_error(error)
                if cause is not None or begun or attempt + 1 == _ATTEMPTS:
                    raise (cause or _lost()) from error
            finally:
                pieces.cancel()


async def _asked(ask: Callable[[], Awaitable[T]]) -> T:
    """Await the response of a replica; repeat the request if the replica dies."""
    for attempt in range(_ATTEMPTS):
        await _wait(attempt)
        response: Any = ask()
        try:
            answer: T = await response
            return answer
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (RayError, RayServeException) as error:
            cause = _client_error(error)
            if cause is not None or attempt + 1 == _ATTEMPTS:
                raise (cause or _lost()) from error
    raise _lost()


async def _wait(attempt: int) -> None:
    if attempt:
        await asyncio.sleep(_WAIT_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))


def _client_error(error: BaseException) -> BaseException | None:
    """The error for the client if another attempt is useless; None if the replica died."""
    if isinstance(error, BackPressureError):
        return ApiError(
            429,
            "All replicas are busy and their queue is full: try again in a moment.",
            code="queue_full",
            headers={"Retry-After": "1"},
        )
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return cause
    return error if api_error(error) is not None else None


def _lost() -> ApiError:
    return ApiError(503, "The replica of this request failed: try again.", code="replica_lost")


@serve.ingress()
class GatewayMiddleware:
    """Deployment of the HTTP application."""

    def __init__(self, settings: ServerSettings, draft: Any, target: Any) -> None:
        self._settings = settings
        self._draft = draft
        self._target = target

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self._settings, RayEngine(self._draft, self._target))


def application(arguments: Mapping[str, Any]) -> serve.Application:
    """The application for `serve run` and `serve.run`.

    Args:
        arguments: fields of `ServerSettings` (`speckv` and `compression` as dicts), and for the draft and the target
            `draft_replicas`, `target_replicas`, `draft_gpus`, `target_gpus`, `draft_cpus`, `target_cpus`, and
            `front_replicas` of the HTTP application, each of which keeps its own uploads, stored responses and metrics.
            Each deployment holds at most `max_requests` waiting requests besides those that run.

    Raises:
        ConfigError: a name is unknown, or a value is out of range.
    """
    resources = {f"{who}_{what}" for who in ("draft", "target") for what in ("replicas", "gpus", "cpus")} | {
        "front_replicas"
    }
    names = {field.name for field in fields(ServerSettings)} | resources
    for name in arguments:
        if name not in names:
            raise unknown_field("application", name, names)
    # the command line passes strings
    values = {name: _number(value) for name, value in arguments.items()}
    chosen = {name: value for name, value in values.items() if name not in resources}
    for name, kind in (("speckv", SpecKVConfig), ("compression", CompressionConfig)):
        if isinstance(chosen.get(name), Mapping):
            chosen[name] = kind.from_dict(dict(chosen[name]))
    settings = ServerSettings(**chosen)

    def options(who: str) -> dict[str, Any]:
        actor = {"num_cpus": values.get(f"{who}_cpus", 1), "num_gpus": values.get(f"{who}_gpus", 0)}
        return {
            "name": who,
            "num_replicas": values.get(f"{who}_replicas", 1),
            "ray_actor_options": actor,
            "max_ongoing_requests": settings.max_requests,
            "max_queued_requests": settings.max_requests,
        }

    draft = serve.deployment(DraftReplica).options(**options("draft")).bind(settings)
    target = serve.deployment(TargetReplica).options(**options("target")).bind(settings)
    front = serve.deployment(GatewayMiddleware).options(
        name="front",
        num_replicas=values.get("front_replicas", 1),
        max_ongoing_requests=2 * settings.max_requests,
        ray_actor_options={"num_cpus": 0},
    )
    bound: serve.Application = front.bind(settings, draft, target)
    return bound


def _number(value: Any) -> Any:
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
