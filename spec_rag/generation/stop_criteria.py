"""Stopping criteria: cancellation, end tokens, stop strings; and the cut of each row at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from spec_rag.generation.request import Cancelled, GenerationRequest
from spec_rag.text.answer_text import AnswerText, answer_text


def is_cancelled(cancelled: Cancelled, row: int) -> bool:
    """Whether a prompt of a batch was cancelled."""
    event = cancelled[row] if isinstance(cancelled, Sequence) else cancelled
    return event is not None and event.is_set()


class CancelCriterion(StoppingCriteria):  # type: ignore[misc]
    """Stops all rows when `cancelled` is set, or each row when its own event is set.

    Attributes:
        first_token_at: time.perf_counter() when the first token was complete, or None.
    """

    def __init__(self, cancelled: Cancelled = None) -> None:
        self.cancelled = cancelled
        self.first_token_at: float | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool [rows]: whether to stop; beams are several consecutive rows per prompt."""
        if self.first_token_at is None:
            if input_ids.is_cuda:  # the kernel has been launched, but its result is not there yet
                torch.cuda.synchronize(input_ids.device)
            self.first_token_at = time.perf_counter()
        rows = input_ids.shape[0]
        beams = rows // len(self.cancelled) if isinstance(self.cancelled, Sequence) else 1
        stop = [is_cancelled(self.cancelled, row // beams) for row in range(rows)]
        return torch.tensor(stop, dtype=torch.bool, device=input_ids.device)


class EndedRows(StoppingCriteria):  # type: ignore[misc]
    """Reports after each token which rows have no end token yet; stops none.

    Args:
        prompt_tokens: tokens of the prompts, padding included.
        ends: the end tokens.
        report: called with bool [rows].
    """

    def __init__(self, prompt_tokens: int, ends: Sequence[int], report: Callable[[Tensor], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self.ends = torch.tensor(ends, dtype=torch.long)
        self.report = report

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool [rows], all False."""
        ended = torch.isin(input_ids[:, self.prompt_tokens :], self.ends.to(input_ids.device)).any(dim=1)
        self.report(~ended)
        return torch.zeros_like(ended)


@dataclass(frozen=True)
class WrittenAnswer:
    """One row up to its end.

    Attributes:
        ids: the generated tokens, the end token included.
        text: the text before a stop string, without special tokens; "" without a tokenizer.
        has_ended: whether it ends with an end token or a stop string.
    """

    ids: list[int]
    text: str
    has_ended: bool


class AnswerEnds(CancelCriterion):
    """Stops rows at a stop string or by cancellation, and cuts each row at its end.

    A batch runs until its last row ends; transformers fills the other rows, so every row is cut here. End tokens stop a
    row in transformers itself.

    Args:
        request: the job.
        prompt_tokens: tokens of the prompts, padding included.
        rows: rows of the batch, without beams.
    """

    def __init__(self, request: GenerationRequest, prompt_tokens: int, rows: int) -> None:
        super().__init__(request.cancelled)
        self.ends = request.ends
        self._stop = request.sampling.stop
        self._tokenizer = request.pair.tokenizer or request.pair.draft_tokenizer
        if self._stop:
            self._tokenizer = request.pair.require_tokenizer()
        self._prompt_tokens = prompt_tokens
        self._lengths: list[int | None] = [None] * rows  # tokens of each row when it was stopped
        self._read: dict[int, tuple[list[int], AnswerText]] = {}  # per row the tokens read so far, and their text

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool [rows]: whether to stop."""
        stop = super().__call__(input_ids, scores, **kwargs)
        if self._stop:
            written = input_ids[:, self._prompt_tokens :].tolist()
            found = [self._text_of(row, ids).stopped for row, ids in enumerate(written)]
            stop |= torch.tensor(found, dtype=torch.bool, device=stop.device)
        if len(input_ids) == len(self._lengths):  # else the rows are beams, which may still change places
            for row in stop.nonzero().flatten().tolist():
                if self._lengths[row] is None:
                    self._lengths[row] = input_ids.shape[1] - self._prompt_tokens
        return stop

    def cut(self, row: int, sequence: Tensor) -> WrittenAnswer:
        """One row's answer up to its end token, its stop string or its cancellation.

        Args:
            row: index in the batch.
            sequence: int64 [prompt and generated tokens].
        """
        ids = sequence[self._prompt_tokens :][: self._lengths[row]].tolist()
        end = next((i for i, token in enumerate(ids) if token in self.ends), None)
        ids = ids if end is None else ids[: end + 1]
        if self._tokenizer is None:
            return WrittenAnswer(ids, "", end is not None)
        if self._stop:
            text = self._text_of(row, ids)
            if text.stopped:
                return WrittenAnswer(ids[: text.tokens], text.text, True)
        return WrittenAnswer(ids, answer_text(self._tokenizer, ids, self.ends), end is not None)

    def _text_of(self, row: int, ids: list[int]) -> AnswerText:
        """The text of a row's tokens; reads only those that are new since the last call."""
        known, text = self._read.get(row, ([], None))
        if text is None or ids[: len(known)] != known:  # another beam has taken this row
            assert self._tokenizer is not None
            known, text = [], AnswerText(self._tokenizer, self._stop, self.ends)
        for token in ids[len(known) :]:  # one by one: the text counts the tokens up to a stop string
            text.add(token)
        self._read[row] = (ids, text)
        return text
