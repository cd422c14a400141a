"""Stopping criteria that watch a generation from inside: its first token, ended rows, stop strings, cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import StoppingCriteria

from spec_rag.text.answer_text import AnswerText

Cancelled: TypeAlias = threading.Event | Sequence[threading.Event | None] | None
"""What ends a generation when it is set: one event for all rows, one or none for each, or nothing."""


def is_cancelled(cancelled: Cancelled, row: int) -> bool:
    """Whether that row of a batch has been cancelled."""
    event = cancelled[row] if isinstance(cancelled, Sequence) else cancelled
    return event is not None and event.is_set()


class CancelCriterion(StoppingCriteria):  # type: ignore[misc]
    """Stops every row as soon as `cancelled`, or the row's own event, is set.

    Attributes:
        first_token_at: time.perf_counter() when the first token was there, or None.
    """

    def __init__(self, cancelled: Cancelled = None) -> None:
        self.cancelled = cancelled
        self.first_token_at: float | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool [rows]: whether to stop."""
        if self.first_token_at is None:
            if input_ids.is_cuda:  # the token is asked for, not there yet
                torch.cuda.synchronize(input_ids.device)
            self.first_token_at = time.perf_counter()
        stop = [is_cancelled(self.cancelled, row) for row in range(input_ids.shape[0])]
        return torch.tensor(stop, dtype=torch.bool, device=input_ids.device)


class EndedRows(StoppingCriteria):  # type: ignore[misc]
    """Tells after each token which rows have not written an end token yet; stops none.

    Args:
        prompt_tokens: tokens of the prompts, padding included.
        ends: the end tokens.
        tell: called with bool [rows].
    """

    def __init__(self, prompt_tokens: int, ends: Sequence[int], tell: Callable[[Tensor], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self.ends = torch.tensor(ends, dtype=torch.long)
        self.tell = tell

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool [rows], all False."""
        ended = torch.isin(input_ids[:, self.prompt_tokens :], self.ends.to(input_ids.device)).any(dim=1)
        self.tell(~ended)
        return torch.zeros_like(ended)


class StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Stops each row at the first stop string in the text that it has written; the prompt's text does not count.

    Args:
        prompt_tokens: tokens of the prompts, padding included.
        read: makes the text of a row that has written nothing yet.
    """

    def __init__(self, prompt_tokens: int, read: Callable[[], AnswerText]) -> None:
        self.prompt_tokens = prompt_tokens
        self.read = read
        self._rows: dict[int, tuple[list[int], AnswerText]] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool [rows]: whether to stop."""
        written = input_ids[:, self.prompt_tokens :].tolist()
        stop = [self._is_stopped(row, ids) for row, ids in enumerate(written)]
        return torch.tensor(stop, dtype=torch.bool, device=input_ids.device)

    def _is_stopped(self, row: int, ids: list[int]) -> bool:
        known, text = self._rows.get(row, ([], None))
        if text is None or ids[: len(known)] != known:  # a beam has taken the place of another
            known, text = [], self.read()
        text.add(*ids[len(known) :])
        self._rows[row] = (ids, text)
        return text.stopped
