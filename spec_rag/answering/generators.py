"""Answer generators: the interface, and the generator of a local model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from spec_rag.answering.loops import LoopGuard
from spec_rag.options.loading import DEFAULT_DRAFT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spec_rag.generation.context_cache import ContextCache
    from spec_rag.models.model_pair import ModelPair
    from spec_rag.options.compression import SpecKVConfig
    from spec_rag.results import Answer

Emit = Callable[[str], None]
Messages = Sequence[Mapping[str, str]]


class Generator(Protocol):
    """Writes answers.

    Attributes:
        model: name of the model that answers.
    """

    @property
    def model(self) -> str:
        """Name of the model that answers."""

    def answer(self, messages: Messages, max_new_tokens: int, emit: Emit) -> Answer:
        """Answer a chat; `emit` is called with each piece as it is written.

        An answer that repeats itself ends before the repetition with finish_reason "repetition".
        """


class LocalGenerator:
    """The target of a pair.

    Args:
        pair: the models; the target answers, the draft may write the look-ahead.
        speckv: pruning of the target's KV cache; None keeps all of it.
        context: context that precedes the question, or None.
    """

    def __init__(
        self, pair: ModelPair, *, speckv: SpecKVConfig | None = None, context: ContextCache | None = None
    ) -> None:
        self._pair = pair
        self._speckv = speckv
        self._context = context

    @property
    def model(self) -> str:
        """Name of the target."""
        return self._pair.name_of("target") or "an unnamed model"

    def answer(self, messages: Messages | str, max_new_tokens: int, emit: Emit) -> Answer:
        """Answer a chat, or a question on the context; see `Generator`."""
        from spec_rag.generation.streaming import stream

        prompt = messages if isinstance(messages, str) else [dict(message) for message in messages]
        options: dict[str, Any] = {} if self._context is None else {"context": self._context}
        with stream(self._pair, prompt, speckv=self._speckv, max_new_tokens=max_new_tokens, **options) as pieces:
            guard = guarded(pieces, emit, pieces.cancel)
            answer = pieces.answer
        assert answer is not None
        return replace(answer, text=guard.text, finish_reason="repetition") if guard.looping else answer


def guarded(pieces: Iterable[str], emit: Emit, stop: Callable[[], None]) -> LoopGuard:
    """Pass pieces of an answer on until it repeats itself; then call `stop` once and discard the rest."""
    guard = LoopGuard()
    for piece in pieces:
        stopped = guard.looping
        text = guard.feed(piece)
        if text:
            emit(text)
        if guard.looping and not stopped:
            stop()
    rest = guard.finish()
    if rest:
        emit(rest)
    return guard


def is_demonstration(model: str) -> bool:
    """Whether a model is the default one, which is small and often wrong."""
    return model.rstrip("/").rsplit("/", 1)[-1].lower().startswith(DEFAULT_DRAFT.rsplit("/", 1)[-1].lower())
