"""Logits processors: presence and frequency penalties, and recording of log-probabilities.

transformers' `repetition_penalty` counts the prompt too; these penalties count only the answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LogitsProcessor

from spec_rag.results import TokenLogprob


class AnswerPenalties(LogitsProcessor):  # type: ignore[misc]
    """Presence and frequency penalty, as in OpenAI's API.

    Args:
        prompt_tokens: tokens of the padded prompts.
        presence: subtracted from the logit of a token that occurs in the answer.
        frequency: subtracted for each occurrence.
    """

    def __init__(self, prompt_tokens: int, presence: float, frequency: float) -> None:
        self._prompt_tokens = prompt_tokens
        self._presence = presence
        self._frequency = frequency

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The changed logits.

        Args:
            input_ids: int64 [rows, prompt and answer tokens].
            scores: [rows, vocabulary].
        """
        answer = input_ids[:, self._prompt_tokens :]
        if answer.shape[1] == 0:
            return scores
        counts = torch.zeros_like(scores).scatter_add_(1, answer, torch.ones_like(answer, dtype=scores.dtype))
        return scores - self._frequency * counts - self._presence * (counts > 0)


class LogprobRecorder(LogitsProcessor):  # type: ignore[misc]
    """Records the log-probabilities of the chosen tokens.

    They refer to the distribution after penalties, biases and constraints, and before temperature, top_p and top_k.

    Args:
        prompt_tokens: tokens of the padded prompts.
        alternatives: number of most probable tokens to record at each position.
    """

    def __init__(self, prompt_tokens: int, alternatives: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._alternatives = alternatives
        self._last: Tensor | None = None  # [rows, vocabulary] of the position whose token is not chosen yet
        self._chosen: list[Tensor] = []  # per position [rows]
        self._top: list[tuple[list[list[int]], list[list[float]]]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The logits unchanged.

        Args:
            input_ids: int64 [rows, prompt and answer tokens].
            scores: [rows, vocabulary].
        """
        self._record_chosen(input_ids)
        logprobs = scores.float().log_softmax(dim=-1)
        top = logprobs.topk(min(self._alternatives, logprobs.shape[-1]), dim=-1)
        self._top.append((top.indices.tolist(), top.values.tolist()))
        self._last = logprobs
        return scores

    def rows(self, sequences: Tensor, text_of: Callable[[int], str]) -> list[list[TokenLogprob]]:
        """The log-probabilities of each row's answer.

        Args:
            sequences: int64 [rows, prompt and answer tokens], what `generate` returned.
            text_of: decodes one token.
        """
        self._record_chosen(sequences[:, : self._prompt_tokens + len(self._top)])
        answers = sequences[:, self._prompt_tokens :].tolist()
        chosen = [place.tolist() for place in self._chosen]
        recorded: list[list[TokenLogprob]] = []
        for row, answer in enumerate(answers):
            places = zip(answer, chosen, self._top, strict=False)  # a cancelled answer may lack the last token
            recorded.append(
                [
                    TokenLogprob(
                        token,
                        logprobs[row],
                        text_of(token),
                        [TokenLogprob(i, value, text_of(i)) for i, value in zip(ids[row], values[row], strict=True)],
                    )
                    for token, logprobs, (ids, values) in places
                ]
            )
        return recorded

    def _record_chosen(self, ids: Tensor) -> None:
        if self._last is not None and ids.shape[1] > self._prompt_tokens:
            self._chosen.append(self._last.gather(1, ids[:, -1:]).squeeze(1).cpu())
            self._last = None
