"""An answer piece by piece: one worker thread generates, the consumer reads from a queue.

The worker holds the models' lock, never the consumer, so a stream may be read from any thread, or be dropped. This
module does not know how answers are computed.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import TextStreamer

from spec_rag.config import SpecKVConfig, SpecPCConfig
from spec_rag.decoding import SamplingConfig
from spec_rag.errors import ConfigError
from spec_rag.generation import generate
from spec_rag.models import ModelPair
from spec_rag.results import Answer
from spec_rag.tokens import Prompt


class _Ended:
    """Closes the queue, with the answer or the exception that ended it."""

    def __init__(self, answer: Answer | None = None, error: BaseException | None = None) -> None:
        self.answer = answer
        self.error = error


class _PieceStreamer(TextStreamer):  # type: ignore[misc]
    """Hands decoded text to `emit`, holding back what may be the beginning of a stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...], emit: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stop = stop
        self._emit = emit
        self._held = ""
        self._stopped = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if self._stopped:
            return
        self._held += text
        cut = min((at for at in (self._held.find(s) for s in self._stop) if at >= 0), default=None)
        if cut is not None:
            piece, self._held, self._stopped = self._held[:cut], "", True
        elif stream_end:
            piece, self._held = self._held, ""
        else:
            safe = len(self._held) - self._possible_stop()
            piece, self._held = self._held[:safe], self._held[safe:]
        if piece:
            self._emit(piece)

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        return max(
            (n for s in self._stop for n in range(1, min(len(s), len(self._held)) + 1) if self._held.endswith(s[:n])),
            default=0,
        )


class AnswerStream:
    """Iterate over it, synchronously or asynchronously, for the pieces of the answer's text.

    Closing it, leaving the loop of `with` early, or dropping it stops the generation within two tokens.

    Attributes:
        answer: the whole Answer, once the last piece has been read.
    """

    def __init__(self, run: Callable[[Callable[[str], None], threading.Event], Answer]) -> None:
        """Start `run(emit, cancelled)` in a thread of its own."""
        self.answer: Answer | None = None
        self._queue: queue.SimpleQueue[str | _Ended] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._finished = False
        pieces, cancelled = self._queue, self._cancelled  # not self: a dropped stream must be collectable

        def work() -> None:
            try:
                pieces.put(_Ended(run(pieces.put, cancelled)))
            except BaseException as error:
                pieces.put(_Ended(error=error))

        self._worker = threading.Thread(
            target=contextvars.copy_context().run, args=(work,), name="spec-rag-stream", daemon=True
        )
        self._worker.start()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._finished:
            raise StopIteration
        piece = self._queue.get()
        if isinstance(piece, str):
            return piece
        self._end(piece)
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        if self._finished:
            raise StopAsyncIteration
        while True:
            try:
                piece = self._queue.get_nowait()
                break
            except queue.Empty:
                try:
                    await asyncio.sleep(0.005)
                except asyncio.CancelledError:
                    self._cancelled.set()
                    raise
        if isinstance(piece, str):
            return piece
        self._end(piece)
        raise StopAsyncIteration

    def _end(self, ended: _Ended) -> None:
        self._finished = True
        self._worker.join()
        self.answer = ended.answer
        if ended.error is not None:
            raise ended.error

    def close(self, timeout_seconds: float | None = None) -> None:
        """Stop the generation; waits for its thread to end, at most `timeout_seconds`."""
        self._cancelled.set()
        self._finished = True
        self._worker.join(timeout_seconds)

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        cancelled = getattr(self, "_cancelled", None)
        if cancelled is not None:
            cancelled.set()


def stream(
    pair: ModelPair,
    prompt: Prompt,
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
    max_new_tokens: int = 256,
    **options: Any,
) -> AnswerStream:
    """Like `generate`, piece by piece. Errors are raised where the stream is read.

    Raises:
        ConfigError: an option is out of range, or beams are asked for, which have no first piece before the last.
    """
    sampling = SamplingConfig.of(max_new_tokens, {k: v for k, v in options.items() if k != "backend"})
    if sampling.copies > 1:
        raise ConfigError(f"num_beams={sampling.copies} cannot stream: use generate(), or num_beams=1.")
    tokenizer = pair.require_tokenizer()

    def run(emit: Callable[[str], None], cancelled: threading.Event) -> Answer:
        streamer = _PieceStreamer(tokenizer, sampling.stop, emit)
        return generate(pair, prompt, specpc, speckv, max_new_tokens, streamer=streamer, cancelled=cancelled, **options)

    return AnswerStream(run)


async def agenerate(
    pair: ModelPair,
    prompt: Prompt,
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
    max_new_tokens: int = 256,
    **options: Any,
) -> Answer:
    """`generate` in a thread of its own; cancelling the task stops the generation within two tokens."""
    cancelled = threading.Event()

    def run() -> Answer:
        return generate(pair, prompt, specpc, speckv, max_new_tokens, cancelled=cancelled, **options)

    try:
        return await asyncio.to_thread(run)
    except asyncio.CancelledError:
        cancelled.set()
        raise
