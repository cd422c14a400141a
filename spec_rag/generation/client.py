"""Requests on the models as applications make them: with a time limit, another try after a full GPU, for event loops.

The models' lock queues requests, and only the thread that generates holds it. Importing this module loads neither torch
nor transformers. It knows no framework.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from spec_rag.utils.cancellation import Cancellation, LinkedCancellation, in_thread

if TYPE_CHECKING:
    from spec_rag.generation.streaming import AnswerStream
    from spec_rag.models.model_pair import ModelPair
    from spec_rag.results import Answer
    from spec_rag.text.prompts import Prompt


@dataclass(frozen=True)
class GenerationClient:
    """How requests on a pair of models are made.

    Args:
        pair: the models.
        arguments: keywords of `spec_rag.generate`.
        timeout_seconds: from the request to the last token, the wait for the models included; None waits for ever.
        retries: how often a request is tried again after memory ran out, the one passing failure of a local model.
    """

    pair: ModelPair
    arguments: Mapping[str, Any]
    timeout_seconds: float | None = None
    retries: int = 0

    def answer_all(self, prompts: Sequence[Prompt], cancelled: threading.Event | None = None) -> list[Answer]:
        """Answer the prompts in one batch.

        Raises:
            TimeoutError: the time was up before every answer was complete.
        """
        from spec_rag.generation.generate import generate_batch

        return self._in_time(
            lambda stop: generate_batch(self.pair, prompts, cancelled=stop, **self.arguments), cancelled
        )

    async def aanswer_all(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """`answer_all` in a thread of its own; cancelling the task stops the generation within two tokens."""
        return await in_thread(lambda cancelled: self.answer_all(prompts, cancelled))

    def answer(self, prompt: Prompt, cancelled: threading.Event | None = None) -> Answer:
        """Answer one prompt, in one batch with what other threads ask with the same settings meanwhile.

        Raises:
            TimeoutError: the time was up before the answer was complete.
        """
        from spec_rag.generation.generate import generate_together

        def ask(stop: threading.Event) -> list[Answer]:
            return [generate_together(self.pair, prompt, cancelled=stop, **self.arguments)]

        return self._in_time(ask, cancelled)[0]

    async def aanswer(self, prompt: Prompt) -> Answer:
        """`answer` in a thread of its own; cancelling the task stops the generation within two tokens."""
        return await in_thread(lambda cancelled: self.answer(prompt, cancelled))

    def _in_time(
        self, ask: Callable[[threading.Event], list[Answer]], cancelled: threading.Event | None
    ) -> list[Answer]:
        from spec_rag.models.error_context import is_out_of_memory

        own = Cancellation() if cancelled is None else LinkedCancellation(cancelled)  # the deadline sets this one alone
        retries = self.retries
        with _Deadline(self.timeout_seconds, own.set) as deadline:
            while True:
                try:
                    answers = ask(own)
                except Exception as error:
                    if not retries or not is_out_of_memory(error):
                        raise
                else:
                    deadline.check(answers)
                    return answers
                retries -= 1
                _free_memory()

    def stream(
        self, prompt: Prompt, started: Callable[[AnswerStream], None] = lambda answering: None
    ) -> Generator[str | Answer, None, None]:
        """The pieces of the answer's text, and at last the whole Answer.

        Closing it stops the generation within two tokens.

        Args:
            prompt: as for `spec_rag.stream`.
            started: told of each generation that is started, for those who close one in their own way.

        Raises:
            TimeoutError: the time was up before the answer was complete.
        """
        from spec_rag.generation.streaming import stream
        from spec_rag.models.error_context import is_out_of_memory

        begun, retries = False, self.retries
        while True:
            answering = stream(self.pair, prompt, **self.arguments)
            started(answering)
            with answering, _Deadline(self.timeout_seconds, answering.cancel) as deadline:
                try:
                    for piece in answering:
                        begun = True
                        yield piece
                except Exception as error:
                    if begun or not retries or not is_out_of_memory(error):
                        raise
                else:
                    deadline.check([answering.answer])
                    assert answering.answer is not None
                    yield answering.answer
                    return
            retries -= 1
            _free_memory()

    async def astream(
        self, prompt: Prompt, started: Callable[[AnswerStream], None] = lambda answering: None
    ) -> AsyncGenerator[str | Answer, None]:
        """`stream` for event loops, which it never makes wait."""
        from spec_rag.generation.streaming import stream
        from spec_rag.models.error_context import is_out_of_memory

        begun, retries = False, self.retries
        while True:
            answering = stream(self.pair, prompt, **self.arguments)
            started(answering)
            try:
                with _Deadline(self.timeout_seconds, answering.cancel) as deadline:
                    async for piece in answering:
                        begun = True
                        yield piece
                    deadline.check([answering.answer])
            except Exception as error:
                if begun or not retries or not is_out_of_memory(error):
                    raise
            else:
                assert answering.answer is not None
                yield answering.answer
                return
            finally:
                answering.close(timeout_seconds=0)
            retries -= 1
            _free_memory()


class _Deadline:
    """Calls `cancel` when the time is up, unless the block has been left before."""

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
                f"timeout={self._timeout_seconds}: the answer was not complete after so many seconds, the wait for the "
                "models included. Raise timeout, or lower max_tokens."
            )


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
