"""Stops a generation when the consumer closes or drops its stream.

LlamaIndex's callback decorators wrap a stream in a generator that does not close the inner one. So the outermost stream
closes the generations that were started for it.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spec_rag.generation.streaming import AnswerStream

# per call: the callback decorators between caller and method pass no further argument on
_streams: ContextVar[list[AnswerStream] | None] = ContextVar("spec_rag_streams", default=None)


def streams_of_consumer() -> list[AnswerStream]:
    """The list to which the current method adds its generations."""
    streams = _streams.get()
    return [] if streams is None else streams


def closes_with_consumer(method: Callable[..., Generator[Any, None, None]]) -> Callable[..., Any]:
    """Decorate a method that returns a generator: closing or dropping that generator stops its generation."""

    @functools.wraps(method)
    def outer(self: Any, *args: Any, **kwargs: Any) -> Generator[Any, None, None]:
        streams: list[AnswerStream] = []
        token = _streams.set(streams)
        try:
            responses = method(self, *args, **kwargs)
        finally:
            _streams.reset(token)

        def generator() -> Generator[Any, None, None]:
            try:
                yield from responses
            finally:
                _stop(streams)

        return generator()

    return outer


def aclose_with_consumer(method: Callable[..., Awaitable[AsyncGenerator[Any, None]]]) -> Callable[..., Any]:
    """`closes_with_consumer` for a coroutine that returns an async generator."""

    @functools.wraps(method)
    async def outer(self: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        streams: list[AnswerStream] = []
        token = _streams.set(streams)
        try:
            responses = await method(self, *args, **kwargs)
        finally:
            _streams.reset(token)

        async def generator() -> AsyncGenerator[Any, None]:
            try:
                async for response in responses:
                    yield response
            finally:
                _stop(streams)
                await responses.aclose()

        return generator()

    return outer


def _stop(streams: list[AnswerStream]) -> None:
    """Close the streams without waiting for a running prefill."""
    for stream in streams:
        stream.close(timeout_seconds=0)
