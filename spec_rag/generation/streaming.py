"""An answer piece by piece: one worker thread generates, the consumer takes pieces out of a mailbox.

The worker holds the models' lock, never the consumer, so a stream may be read from any thread, or be dropped. This
module does not know how answers are computed.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from spec_rag.errors import ConfigError, ForkedError
from spec_rag.generation.end_tokens import answer_ends
from spec_rag.generation.generate import generate, generate_together
from spec_rag.generation.row_streams import CountingStreamer
from spec_rag.generation.sampling import SamplingConfig
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


class _Ended(Generic[R]):
    """The last letter: the result, or the exception that ended the work."""

    def __init__(self, result: R | None = None, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error


class _Mailbox(Generic[R]):
    """Pieces in their order, for one reader at a time, who is woken and does not look again and again."""

    def __init__(self) -> None:
        self._letters: deque[str | _Ended[R]] = deque()
        self._condition = threading.Condition()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        renew_in_children(self)

    def renew_in_child(self) -> None:
        """Say in a forked child that nothing more comes, since the thread that writes is in the parent."""
        self._condition = threading.Condition()
        self._waiting = None
        if not any(isinstance(letter, _Ended) for letter in self._letters):
            self._letters.append(_Ended(error=ForkedError(_ONLY_IN_PARENT)))

    def put(self, letter: str | _Ended[R]) -> None:
        with self._condition:
            self._letters.append(letter)
            self._condition.notify_all()
            if self._waiting is not None:
                loop, arrived = self._waiting
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(arrived.set)

    def take(self) -> str | _Ended[R]:
        with self._condition:
            while not self._letters:
                self._condition.wait()
            return self._letters.popleft()

    async def atake(self) -> str | _Ended[R]:
        arrived = asyncio.Event()
        while True:
            with self._condition:
                if self._letters:
                    self._waiting = None
                    return self._letters.popleft()
                arrived.clear()
                self._waiting = (asyncio.get_running_loop(), arrived)
            await arrived.wait()


class _PieceStreamer(BaseStreamer):  # type: ignore[misc]
    """Hands the text of an answer on to `emit` as far as no later token changes it or makes a stop string of it.

    Args:
        read: makes the text of an answer that has no tokens yet.
        emit: called with each piece.

    Attributes:
        begun: whether anything has been handed on.
    """

    def __init__(self, read: Callable[[], AnswerText], emit: Callable[[str], None]) -> None:
        self.begun = False
        self._read = read
        self._emit = emit
        self.start()

    def start(self) -> None:
        """Wait for a prompt, then for an answer from its first token."""
        self._text = self._read()
        self._emitted = 0
        self._prompt_is_put = False

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then int64 [1] or [1, 1] after each step."""
        if not self._prompt_is_put:
            self._prompt_is_put = True
            return
        for token in value.reshape(-1).tolist():
            self._text.add(token)
            self._show(self._text.ready)

    def end(self) -> None:
        """Hand the rest on."""
        self._show(len(self._text.text))

    def _show(self, ready: int) -> None:
        piece = self._text.text[self._emitted : ready]
        if piece:
            self._emitted += len(piece)
            self.begun = True
            self._emit(piece)


class ResultStream(Generic[R]):
    """Iterate over it, synchronously or asynchronously, for the pieces of text that lead to a result.

    Closing it, leaving the block of `with` early, or dropping it cancels the work.

    Attributes:
        result: what the work returned, once the last piece has been read.
    """

    def __init__(self, run: Callable[[Callable[[str], None], Cancellation], R]) -> None:
        """Start `run(emit, cancelled)` in a thread of its own."""
        self.result: R | None = None
        self._mailbox: _Mailbox[R] = _Mailbox()
        self._cancelled = Cancellation()
        self._finished = False
        mailbox, cancelled = self._mailbox, self._cancelled  # not self: a dropped stream must be collectable

        def work() -> None:
            try:
                mailbox.put(_Ended(run(mailbox.put, cancelled)))
            except BaseException as error:
                mailbox.put(_Ended(error=error))

        self._worker = threading.Thread(
            target=contextvars.copy_context().run, args=(work,), name="spec-rag-stream", daemon=True
        )
        self._worker.start()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._finished:
            raise StopIteration
        letter = self._mailbox.take()
        if isinstance(letter, str):
            return letter
        self._end(letter)
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        if self._finished:
            raise StopAsyncIteration
        try:
            letter = await self._mailbox.atake()
        except asyncio.CancelledError:
            self._cancelled.set()
            raise
        if isinstance(letter, str):
            return letter
        self._end(letter)
        raise StopAsyncIteration

    def _end(self, ended: _Ended[R]) -> None:
        self._finished = True
        self._worker.join()
        self.result = ended.result
        if ended.error is not None:
            raise ended.error

    def cancel(self) -> None:
        """Cancel the work and wait for nothing; what was written until then can still be read."""
        self._cancelled.set()

    def close(self, timeout_seconds: float | None = None) -> None:
        """Cancel the work; waits for its thread to end, at most `timeout_seconds`."""
        self._cancelled.set()
        self._finished = True
        self._worker.join(timeout_seconds)

    def __enter__(self) -> ResultStream[R]:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *rest: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close(timeout_seconds=0 if interrupted else None)  # whoever presses Ctrl-C does not wait for a prefill

    def __del__(self) -> None:
        cancelled = getattr(self, "_cancelled", None)
        if cancelled is not None:
            cancelled.set()


class WrittenTokens:
    """Counter of the tokens that a stream has written."""

    def __init__(self) -> None:
        self.tokens = 0

    def add(self, tokens: int) -> None:
        """Count more tokens."""
        self.tokens += tokens


class AnswerStream(ResultStream[Answer]):
    """The pieces of an answer's text; closing or dropping it stops the generation within two tokens."""

    def __init__(self, run: Callable[[Callable[[str], None], Cancellation], Answer], count: WrittenTokens) -> None:
        """Start `run(emit, cancelled)` in a thread of its own, which adds to `count` what it writes."""
        self._count = count
        super().__init__(run)

    @property
    def written_tokens(self) -> int:
        """Tokens of the answer that were written so far, also where the stream is closed before its end."""
        return self._count.tokens

    @property
    def answer(self) -> Answer | None:
        """The whole Answer, once the last piece has been read."""
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
    """Like `generate`, piece by piece. Errors are raised where the stream is read.

    Streams that wait for the same models with the same settings are written in one batch.

    Raises:
        ConfigError: an option is out of range, or beams are asked for, which have no first piece before the last.
    """
    sampling = SamplingConfig.of(max_new_tokens, {k: v for k, v in options.items() if k not in ("backend", "context")})
    if sampling.beams > 1:
        raise ConfigError(f"num_beams={sampling.beams} cannot stream: use generate(), or num_beams=1.")
    tokenizer = ModelPair.check(pair).require_tokenizer()
    pair.require_target()
    ends = answer_ends(pair, sampling)

    def run(emit: Callable[[str], None], cancelled: Cancellation) -> Answer:
        streamer = CountingStreamer(_PieceStreamer(lambda: AnswerText(tokenizer, sampling.stop, ends), emit), count.add)
        return generate_together(
            pair, prompt, specpc, speckv, max_new_tokens, streamer=streamer, cancelled=cancelled, **options
        )

    count = WrittenTokens()
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
