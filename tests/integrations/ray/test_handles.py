"""Handles in the place of models: what the server makes of replicas that die, refuse or are slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="the extra `ray` is not installed")

import ray_spec_rag.serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray_spec_rag.serve import RayEngine, application

from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.results import Answer
from spec_rag.serving.api_errors import ApiError
from spec_rag.serving.engine import GenerationRequest

ANSWER = Answer("well", [1], 3, 3, 1)
ASK = GenerationRequest("Hello", 5)


class Response:
    """What a handle gives: awaitable, iterable and cancellable."""

    def __init__(self, script: list[Any]) -> None:
        self._script = script
        self.cancelled = False

    def __await__(self) -> Any:
        return self._one().__await__()

    async def _one(self) -> Any:
        (one,) = self._script
        if isinstance(one, float):
            await asyncio.sleep(one)
        if isinstance(one, BaseException):
            raise one
        return one

    async def __aiter__(self) -> AsyncIterator[Any]:
        for one in self._script:
            if isinstance(one, BaseException):
                raise one
            yield one

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment whose calls go as they are told to, one after the other."""

    def __init__(self, *scripts: list[Any]) -> None:
        self._scripts = list(scripts)
        self.responses: list[Response] = []

    def options(self, **given: Any) -> Handle:
        return self

    def __getattr__(self, name: str) -> Handle:
        return self

    def remote(self, *given: Any) -> Response:
        self.responses.append(Response(self._scripts[len(self.responses)]))
        return self.responses[-1]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which take no time."""
    found: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        found.append(seconds)
        await sleep(0)

    monkeypatch.setattr(ray_spec_rag.serve.asyncio, "sleep", noted)
    return found


def failed(error: Exception) -> RayTaskError:
    return RayTaskError("compress", "traceback", error).as_instanceof_cause()


async def test_a_request_whose_replica_dies_is_asked_again(waits: list[float]) -> None:
    target = Handle([RayActorError()], [RayActorError()], [ANSWER])
    assert await RayEngine(None, target).answer(ASK) == ANSWER
    dead = Handle(*[[RayActorError()]] * 5)
    with pytest.raises(ApiError, match="replica of this request failed") as caught:
        await RayEngine(None, dead).answer(ASK)
    assert (caught.value.status, len(dead.responses)) == (503, 3)


async def test_requests_of_a_dead_replica_are_not_repeated_all_at_once(waits: list[float]) -> None:
    target = Handle(*[[RayActorError()]] * 60)
    engine = RayEngine(None, target)
    asked = [engine.answer(ASK) for _ in range(10)]
    streams = [anext(engine.stream(ASK)) for _ in range(10)]
    errors = await asyncio.gather(*asked, *streams, return_exceptions=True)
    assert {str(error) for error in errors} == {"The replica of this request failed: try again."}
    assert len(target.responses) == 60
    assert len(waits) == len(set(waits)) == 40
    assert 0.25 <= min(waits) < 0.5
    assert 0.75 < max(waits) <= 1.5


async def test_a_full_queue_is_told_at_once_and_not_asked_again() -> None:
    full = BackPressureError(num_queued_requests=4, max_queued_requests=4)
    for ask in (lambda engine: engine.answer(ASK), lambda engine: anext(engine.stream(ASK))):
        target = Handle([full], [ANSWER])
        with pytest.raises(ApiError, match="queue is full") as caught:
            await ask(RayEngine(None, target))
        assert (caught.value.status, caught.value.headers, len(target.responses)) == (429, {"Retry-After": "1"}, 1)


async def test_an_error_of_the_work_itself_is_told_and_not_tried_again() -> None:
    draft = Handle([failed(ConfigError("ratio=2: must be at most 1."))], [1])
    with pytest.raises(ConfigError, match="ratio=2"):
        await RayEngine(draft, None).compress([], "?", CompressionConfig())
    assert len(draft.responses) == 1


async def test_a_stream_goes_on_with_another_replica_only_before_its_first_piece(waits: list[float]) -> None:
    target = Handle([RayActorError()], ["a", "b", ANSWER])
    assert [piece async for piece in RayEngine(None, target).stream(ASK)] == ["a", "b", ANSWER]
    broken = Handle(["a", RayActorError()], ["a", "b", ANSWER])
    pieces = RayEngine(None, broken).stream(ASK)
    assert await anext(pieces) == "a"
    with pytest.raises(ApiError, match="replica of this request failed"):
        await anext(pieces)
    assert len(broken.responses) == 1


async def test_who_leaves_cancels_the_work_of_the_replica() -> None:
    target = Handle([5.0])
    waiting = asyncio.create_task(RayEngine(None, target).answer(ASK))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert target.responses[0].cancelled
    stream = RayEngine(None, Handle(["a", "b", ANSWER]))
    pieces = stream.stream(ASK)
    assert await anext(pieces) == "a"
    await pieces.aclose()
    assert stream._target.responses[0].cancelled


def test_a_wrong_name_is_refused_and_words_of_the_command_line_are_numbers() -> None:
    with pytest.raises(ConfigError, match="target_replicas"):
        application({"target_replica": 2})
    assert application({"target_replicas": "2", "max_requests": "8", "speckv": {"max_capacity_prompt": 128}})
