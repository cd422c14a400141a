"""Streaming: a worker thread generates and queues the pieces of an answer for the consumer.

Only the worker holds the models' lock, so a stream may be read from any thread, or be dropped.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Generic, TypeVar

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from spec_rag.errors import ConfigError, ForkedError
from spec_rag.generation.generate import answer_together, generate
from spec_rag.generation.request import GenerationRequest
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.results import Answer
from spec_rag.text.answer_text import AnswerText
from spec_rag.text.prompts import Prompt
from spec_rag.utils.cancellation import Cancellation, in_thread
from spec_rag.utils.forking import renew_in_children

R = TypeVar("R")

_ONLY_IN_PARENT = (
    "The process was forked while this stream was written, and the thread that writes it is in the parent alone: start "
    "the stream again in the child, or start processes with the 'spawn' method of multiprocessing."
)


class _End(Generic[R]):
    """The last item of a queue: the result, or the exception that ended the work."""

    def __init__(self, result: R | None = None, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error


class _PieceQueue(Generic[R]):
    """FIFO queue of pieces for one reader at a time, synchronous or asynchronous; readers do not poll."""

    def __init__(self) -> None:
        self._items: deque[str | _End[R]] = deque()
        self._condition = threading.Condition()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        renew_in_children(self)

    def renew_in_child(self) -> None:
        """End the queue in a forked child, since the thread that writes exists only in the parent."""
        self._condition = threading.Condition()
        self._waiting = None
        if not any(isinstance(item, _End) for item in self._items):
            self._items.append(_End(error=ForkedError(_ONLY_IN_PARENT)))

    def put(self, item: str | _End[R]) -> None:
        with self._condition:
            self._items.append(item)
            self._condition.notify_all()
            if self._waiting is not None:
                loop, arrived = self._waiting
                with suppress(RuntimeError):  # the loop is closed: its reader is gone
                    loop.call_soon_threadsafe(arrived.set)

    def take(self) -> str | _End[R]:
        with self._condition:
            while not self._items:
                self._condition.wait()
            return self._items.popleft()

    async def atake(self) -> str | _End[R]:
        arrived = asyncio.Event()
        while True:
            with self._condition:
                if self._items:
                    self._waiting = None
                    return self._items.popleft()
                arrived.clear()
                self._waiting = (asyncio.get_running_loop(), arrived)
            await arrived.wait()


class WrittenTokens:
    """Counter of the tokens that a stream has written."""

    tokens = 0


class _PieceStreamer(BaseStreamer):  # type: ignore[misc]
    """Passes on the text of an answer as soon as neither a later token nor a stop string can change it.

    Args:
        new_text: makes the text of an answer without tokens.
        emit: called with each piece.
        count: is set to the number of tokens of the answer.

    Attributes:
        begun: whether a piece was passed on.
    """

    def __init__(
        self, new_text: Callable[[], AnswerText], emit: Callable[[str], None], count: WrittenTokens | None = None
    ) -> None:
        self.begun = False
        self._new_text = new_text
        self._emit = emit
        self._count = count or WrittenTokens()
        self.start()

    def start(self) -> None:
        """Expect a prompt, then an answer from its first token."""
        self._text = self._new_text()
        self._emitted = 0
        self._count.tokens = 0
        self._prompt_is_put = False

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then int64 [1] or [1, 1] after each step."""
        if not self._prompt_is_put:
            self._prompt_is_put = True
            return
        for token in value.reshape(-1).tolist():
            self._count.tokens += 1
            self._text.add(token)
            # hold back the start of a possible stop string, and bytes of an incomplete character
            self._pass_on(self._text.ready)

    def end(self) -> None:
        """Pass on the rest."""
        self._pass_on(len(self._text.text))

    def _pass_on(self, ready: int) -> None:
        piece = self._text.text[self._emitted : ready]
        if piece:
            self._emitted += len(piece)
            self.begun = True
            self._emit(piece)


class ResultStream(Generic[R]):
    """Iterator, synchronous or asynchronous, over the pieces of a text that is written in a thread.

    Closing it, leaving its `with` block early, or dropping it cancels the work.

    Attributes:
        result: the return value of the work, after the last piece was read.
    """

    def __init__(self, run: Callable[[Callable[[str], None], Cancellation], R]) -> None:
        """Start `run(emit, cancelled)` in a thread of its own."""
        self.result: R | None = None
        self._pieces: _PieceQueue[R] = _PieceQueue()
        self._cancelled = Cancellation()
        self._finished = False
        pieces, cancelled = self._pieces, self._cancelled  # not self: a dropped stream must be collectable

        def work() -> None:
            try:
                pieces.put(_End(run(pieces.put, cancelled)))
            except BaseException as error:
                pieces.put(_End(error=error))

        self._worker = threading.Thread(
            target=contextvars.copy_context().run, args=(work,), name="spec-rag-stream", daemon=True
        )
        self._worker.start()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._finished:
            raise StopIteration
        item = self._pieces.take()
        if isinstance(item, str):
            return item
        self._end(item)
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        if self._finished:
            raise StopAsyncIteration
        try:
            item = await self._pieces.atake()
        except asyncio.CancelledError:
            self._cancelled.set()
            raise
        if isinstance(item, str):
            return item
        self._end(item)
        raise StopAsyncIteration

    def _end(self, end: _End[R]) -> None:
        self._finished = True
        self._worker.join()
        self.result = end.result
        if end.error is not None:
            raise end.error

    def cancel(self) -> None:
        """Cancel the work without waiting; pieces that were written can still be read."""
        self._cancelled.set()

    def close(self, timeout_seconds: float | None = None) -> None:
        """Cancel the work, and wait at most `timeout_seconds` for its thread to end."""
        self._cancelled.set()
        self._finished = True
        self._worker.join(timeout_seconds)

    def __enter__(self) -> ResultStream[R]:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *rest: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close(timeout_seconds=0 if interrupted else None)  # Ctrl-C does not wait for a prefill

    def __del__(self) -> None:
        cancelled = getattr(self, "_cancelled", None)
        if cancelled is not None:
            cancelled.set()


class AnswerStream(ResultStream[Answer]):
    """Iterator over the pieces of an answer; closing or dropping it stops the generation within two tokens."""

    def __init__(self, run: Callable[[Callable[[str], None], Cancellation], Answer], count: WrittenTokens) -> None:
        """Start `run(emit, cancelled)` in a thread of its own, which counts its tokens in `count`."""
        self._count = count
        super().__init__(run)

    @property
    def written_tokens(self) -> int:
        """Tokens of the answer so far, also if the stream is closed before its end."""
        return self._count.tokens

    @property
    def answer(self) -> Answer | None:
        """The whole Answer, after the last piece was read."""
        return self.result

    def __enter__(self) -> AnswerStream:
        return self


def stream(
    pair: ModelPair,
    prompt: Prompt,
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
    max_new_tokens: int = 256,
    **options: Any,
) -> AnswerStream:
    """Like `generate`, in pieces. Errors of the generation are raised where the stream is read.

    Streams that wait for the same models with the same settings are written in one batch.

    Raises:
        ConfigError: an option is out of range, or num_beams is above 1, which cannot be streamed.
    """
    return stream_answer(GenerationRequest.of(pair, [prompt], specpc, speckv, max_new_tokens, **options))


def stream_answer(request: GenerationRequest) -> AnswerStream:
    """The stream of a request with one prompt; its `cancelled` and `streamer` are replaced.

    Raises:
        ConfigError: the request has beams, which cannot be streamed, or the pair has no tokenizer.
    """
    sampling = request.sampling
    if sampling.beams > 1:
        raise ConfigError(f"num_beams={sampling.beams} cannot stream: use generate(), or num_beams=1.")
    tokenizer, ends, count = request.pair.require_tokenizer(), request.ends, WrittenTokens()

    def run(emit: Callable[[str], None], cancelled: Cancellation) -> Answer:
        streamer = _PieceStreamer(lambda: AnswerText(tokenizer, sampling.stop, ends), emit, count)
        return answer_together(replace(request, cancelled=cancelled, streamer=streamer))

    return AnswerStream(run, count)


async def agenerate(
    pair: ModelPair,
    prompt: Prompt,
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
    max_new_tokens: int = 256,
    **options: Any,
) -> Answer:
    """`generate` in a thread of its own; cancelling the task stops the generation within two tokens."""
    return await in_thread(
        lambda cancelled: generate(pair, prompt, specpc, speckv, max_new_tokens, cancelled=cancelled, **options)
    )
