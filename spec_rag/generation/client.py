"""Generation for applications: time limit, retries after the memory of a GPU was full, and event loops.

Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from spec_rag.generation.request import GenerationRequest
from spec_rag.utils.cancellation import Cancellation, LinkedCancellation, in_thread

if TYPE_CHECKING:
    from spec_rag.generation.streaming import AnswerStream
    from spec_rag.results import Answer
    from spec_rag.text.prompts import Prompt


@dataclass(frozen=True)
class GenerationClient:
    """Sends the prompts of an application with the same models, settings and limits.

    Args:
        request: models and settings; its prompts, streamer and cancellation are replaced in each call.
        timeout_seconds: from the call to the last token, including the wait for the models; None is unlimited.
        retries: number of retries after memory ran out, the only transient error of a local model.
    """

    request: GenerationRequest
    timeout_seconds: float | None = None
    retries: int = 0

    def answer_all(self, prompts: Sequence[Prompt], cancelled: threading.Event | None = None) -> list[Answer]:
        """Answer the prompts in one batch.

        Raises:
            TimeoutError: the time was up before every answer was complete.
        """
        from spec_rag.generation.generate import answer_prompts

        return self._in_time(prompts, answer_prompts, cancelled)

    async def aanswer_all(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """`answer_all` in a thread of its own; cancelling the task stops the generation within two tokens."""
        return await in_thread(lambda cancelled: self.answer_all(prompts, cancelled))

    def answer(self, prompt: Prompt, cancelled: threading.Event | None = None) -> Answer:
        """Answer one prompt, in one batch with compatible requests of other threads.

        Raises:
            TimeoutError: the time was up before the answer was complete.
        """
        from spec_rag.generation.generate import answer_together

        return self._in_time([prompt], lambda request: [answer_together(request)], cancelled)[0]

    async def aanswer(self, prompt: Prompt) -> Answer:
        """`answer` in a thread of its own; cancelling the task stops the generation within two tokens."""
        return await in_thread(lambda cancelled: self.answer(prompt, cancelled))

    def _in_time(
        self,
        prompts: Sequence[Prompt],
        answer: Callable[[GenerationRequest], list[Answer]],
        cancelled: threading.Event | None,
    ) -> list[Answer]:
        # an event of this call: the deadline must not set the caller's
        own = Cancellation() if cancelled is None else LinkedCancellation(cancelled)
        request, attempts = replace(self.request, prompts=prompts, cancelled=own), _Attempts(self.retries)
        with _Deadline(self.timeout_seconds, own.set) as deadline:
            while True:
                with attempts:
                    answers = answer(request)
                    deadline.check(answers)
                    return answers

    def stream(
        self, prompt: Prompt, started: Callable[[AnswerStream], None] = lambda stream: None
    ) -> Generator[str | Answer, None, None]:
        """The pieces of the answer's text, then the whole Answer. Closing it stops the generation within two tokens.

        Args:
            prompt: as for `spec_rag.stream`.
            started: called with each stream that is started, for callers that close it themselves.

        Raises:
            TimeoutError: the time was up before the answer was complete.
        """
        from spec_rag.generation.streaming import stream_answer

        attempts = _Attempts(self.retries)
        while True:
            with attempts:
                stream = stream_answer(replace(self.request, prompts=[prompt]))
                started(stream)
                with stream, _Deadline(self.timeout_seconds, stream.cancel) as deadline:
                    for piece in stream:
                        attempts.forbid()
                        yield piece
                    deadline.check([stream.answer])
                assert stream.answer is not None
                yield stream.answer
                return

    async def astream(
        self, prompt: Prompt, started: Callable[[AnswerStream], None] = lambda stream: None
    ) -> AsyncGenerator[str | Answer, None]:
        """`stream` for event loops, which it never blocks."""
        from spec_rag.generation.streaming import stream_answer

        attempts = _Attempts(self.retries)
        while True:
            with attempts:
                stream = stream_answer(replace(self.request, prompts=[prompt]))
                started(stream)
                try:
                    with _Deadline(self.timeout_seconds, stream.cancel) as deadline:
                        async for piece in stream:
                            attempts.forbid()
                            yield piece
                        deadline.check([stream.answer])
                finally:
                    stream.close(timeout_seconds=0)
                assert stream.answer is not None
                yield stream.answer
                return


class _Attempts:
    """Suppresses out-of-memory errors of its block while retries are left."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._failed = False

    def forbid(self) -> None:
        """Retry no more: a piece was passed on."""
        self._retries = 0

    def __enter__(self) -> None:
        """Free the memory of a failed attempt, whose error and frames are gone by now."""
        if self._failed:
            _free_memory()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        from spec_rag.models.error_context import is_out_of_memory

        if not self._retries or not isinstance(error, Exception) or not is_out_of_memory(error):
            return False
        self._retries -= 1
        self._failed = True
        return True


class _Deadline:
    """Calls `cancel` when the time is up, unless the block was left before."""

    def __init__(self, timeout_seconds: float | None, cancel: Callable[[], None]) -> None:
        self._timeout_seconds = timeout_seconds
        self._cancel = cancel
        self._passed = False
        self._timer = None if timeout_seconds is None else threading.Timer(timeout_seconds, self._pass)

    def _pass(self) -> None:
        self._passed = True
        self._cancel()

    def __enter__(self) -> Self:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def check(self, answers: Sequence[Answer | None]) -> None:
        """Raise TimeoutError if the time was up before every answer was complete."""
        if self._passed and any(answer is None or answer.finish_reason == "cancelled" for answer in answers):
            raise TimeoutError(
                f"timeout={self._timeout_seconds}: the answer was not complete after this number of seconds, with the "
                "wait for the models. Raise timeout, or lower max_tokens."
            )


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
