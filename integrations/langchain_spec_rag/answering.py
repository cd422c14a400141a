"""Runs requests on the models: with a time limit, with another try after a full GPU, in a thread for event loops.

The models' lock queues requests, and only the thread that generates holds it. This module does not know LangChain.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self, cast

import torch

from spec_rag.generation.pipeline import generate_batch
from spec_rag.models.loading import ModelPair
from spec_rag.results import Answer
from spec_rag.generation.streaming import AnswerStream, stream
from spec_rag.text.tokens import Prompt


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


def answer_all(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    arguments: dict[str, Any],
    timeout_seconds: float | None,
    retries: int,
    cancelled: threading.Event | None = None,
) -> list[Answer]:
    """Answer the prompts in one batch.

    Raises:
        TimeoutError: the time was up before every answer was complete.
    """
    cancelled = cancelled or threading.Event()
    with _Deadline(timeout_seconds, cancelled.set) as deadline:
        while True:
            try:
                answers = generate_batch(pair, prompts, cancelled=cancelled, **arguments)
            except torch.OutOfMemoryError:
                if not retries:
                    raise
            else:
                deadline.check(answers)
                return answers
            retries -= 1
            _free_memory()


async def aanswer_all(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    arguments: dict[str, Any],
    timeout_seconds: float | None,
    retries: int,
) -> list[Answer]:
    """`answer_all` in a thread of its own; cancelling the task stops the generation within two tokens."""

    def run(emit: Callable[[str], None], cancelled: threading.Event) -> Answer:
        return cast(Answer, answer_all(pair, prompts, arguments, timeout_seconds, retries, cancelled))

    running = AnswerStream(run)
    try:
        async for _ in running:
            pass
    finally:
        running.close(timeout_seconds=0)
    return cast(list[Answer], running.answer)


def stream_answer(
    pair: ModelPair, prompt: Prompt, arguments: dict[str, Any], timeout_seconds: float | None, retries: int
) -> Generator[str | Answer, None, None]:
    """The pieces of the answer's text, and at last the whole Answer; closing it stops the generation within two tokens.

    Raises:
        TimeoutError: the time was up before the answer was complete.
    """
    started = False
    while True:
        answering = stream(pair, prompt, **arguments)
        with answering, _Deadline(timeout_seconds, lambda own=answering: own.close(0)) as deadline:  # type: ignore[misc]
            try:
                for piece in answering:
                    started = True
                    yield piece
            except torch.OutOfMemoryError:
                if started or not retries:
                    raise
            else:
                deadline.check([answering.answer])
                yield cast(Answer, answering.answer)
                return
        retries -= 1
        _free_memory()


async def astream_answer(
    pair: ModelPair, prompt: Prompt, arguments: dict[str, Any], timeout_seconds: float | None, retries: int
) -> AsyncGenerator[str | Answer, None]:
    """`stream_answer` for event loops, which it never makes wait."""
    started = False
    while True:
        answering = stream(pair, prompt, **arguments)
        try:
            with _Deadline(timeout_seconds, lambda own=answering: own.close(0)) as deadline:  # type: ignore[misc]
                async for piece in answering:
                    started = True
                    yield piece
                deadline.check([answering.answer])
        except torch.OutOfMemoryError:
            if started or not retries:
                raise
        else:
            yield cast(Answer, answering.answer)
            return
        finally:
            answering.close(timeout_seconds=0)
        retries -= 1
        _free_memory()


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def figures(answer: Answer) -> dict[str, Any]:
    """What an answer cost beside its tokens: what was pruned, bytes of keys and values, seconds."""
    return {
        "target_prompt_tokens": answer.target_prompt_tokens,
        "lookahead_tokens": len(answer.lookahead_ids),
        "kv_bytes_dense": answer.kv_bytes_dense,
        "kv_bytes_kept": answer.kv_bytes_kept,
        **asdict(answer.timings),
    }
