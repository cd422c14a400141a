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


def is_cancelled(cancelled: Cancelled, row: int, rows_per_prompt: int = 1) -> bool:
    """Whether that row of a batch has been cancelled; beams put several rows in a row to one prompt."""
    event = cancelled[row // rows_per_prompt] if isinstance(cancelled, Sequence) else cancelled
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
        rows = input_ids.shape[0]
        per_prompt = rows // len(self.cancelled) if isinstance(self.cancelled, Sequence) else 1
        stop = [is_cancelled(self.cancelled, row, per_prompt) for row in range(rows)]
        return torch.tensor(stop, dtype=torch.bool, device=input_ids.device)


class RowEnds(StoppingCriteria):  # type: ignore[misc]
    """Stops rows by any of several criteria, and notes where each row was stopped; a batch pads it from there on.

    Args:
        criteria: stopping criteria of transformers.
        prompt_tokens: tokens of the prompts, padding included.
        rows: of the batch.
    """

    def __init__(self, criteria: Sequence[StoppingCriteria], prompt_tokens: int, rows: int) -> None:
        self._criteria = list(criteria)
        self._prompt_tokens = prompt_tokens
        self._tokens: list[int | None] = [None] * rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool [rows]: whether to stop."""
        stop = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for criterion in self._criteria:
            stop = stop | criterion(input_ids, scores, **kwargs).to(stop.device)
        if len(input_ids) == len(self._tokens):  # else these are the candidates of a beam search
            for row in stop.nonzero().flatten().tolist():
                if self._tokens[row] is None:
                    self._tokens[row] = input_ids.shape[1] - self._prompt_tokens
        return stop

    def answer(self, row: int, sequence: Tensor) -> Tensor:
        """int64 [tokens], the generated tokens of a row without what was filled in behind its end.

        Args:
            row: its index.
            sequence: int64 [prompt and generated tokens].
        """
        return sequence[self._prompt_tokens :][: self._tokens[row]]


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
