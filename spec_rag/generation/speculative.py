"""Greedy decoding that checks guesses of the answer, several tokens in one pass of the target.

The look-ahead that scored the cache is a guess of the answer, and lies there already. The target reads the next few
tokens of it at once; those that it would have written itself are the answer, the first other one is replaced by its own
(speculative decoding with a greedy target: Leviathan et al., arXiv 2211.17192). What a guess costs is a wider pass; it
never changes a token. This module does not know who wrote the guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from spec_rag.generation.prompt_batch import Batch
from spec_rag.generation.pruned_cache import PrunedCache
from spec_rag.generation.sampling import SamplingConfig
from spec_rag.options.compression import SpecKVConfig

WIDEST = 16  # tokens guessed in one pass
_FIRST = 8


def can_verify(batch: Batch, cache: PrunedCache, speckv: SpecKVConfig, sampling: SamplingConfig) -> bool:
    """Whether the look-ahead is checked as a guess of the answer: one row, greedy, no beams, no sliding windows."""
    one_greedy_row = len(batch.rows) == 1 and sampling.beams == 1 and not sampling.options["do_sample"]
    one_by_one = sampling.logprobs is not None or bool(sampling.presence_penalty or sampling.frequency_penalty)
    if one_by_one:  # what was written so far changes or notes the logits of each step
        return False
    return speckv.verify_lookahead and one_greedy_row and len(batch.lookahead[0]) > 0 and cache.can_roll_back


class Guesses:
    """What probably comes next: the rest of a look-ahead, found again where the answer has left it.

    Attributes:
        asked: tokens that were guessed.
        right: tokens of them that the target wrote.
    """

    def __init__(self, lookahead: Sequence[int]) -> None:
        self.asked = 0
        self.right = 0
        self._lookahead = list(lookahead)
        self._at = 0
        self._width = _FIRST

    def next(self, most: int) -> list[int]:
        """The next tokens, at most so many; none where the look-ahead is used up."""
        return self._lookahead[self._at : self._at + max(min(self._width, most), 0)]

    def learn(self, guessed: int, written: Sequence[int]) -> None:
        """Take in what the target made of the last guess.

        Args:
            guessed: tokens that were guessed.
            written: tokens that the target wrote instead: the right ones, and one of its own.
        """
        right = min(guessed, len(written) - 1)
        self.asked += guessed
        self.right += right
        # twice as bold where everything was right, else half as bold, or as bold as would have been right, and one more
        self._width = min(2 * self._width if right == guessed else max(right + 1, self._width // 2), WIDEST)
        self._at += right
        self._follow(written[-1])

    def _follow(self, own: int) -> None:
        """Step over the token that the target wrote itself: where it stands nearby, else in the place of another."""
        ahead = self._lookahead[self._at : self._at + 3]
        self._at += ahead.index(own) + 1 if own in ahead else 1


class VerifiedDecoding:
    """A decoding method for transformers' `generate(custom_generate=...)`: one row, greedy, from a pruned cache."""

    def __init__(self, cache: PrunedCache, guesses: Guesses, streamer: BaseStreamer | None = None) -> None:
        self._cache = cache
        self._guesses = guesses
        self._streamer = streamer  # transformers hands none on to a decoding method that is given

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: Any,
        synced_gpus: bool = False,
        **model_kwargs: Any,
    ) -> Tensor:
        """int64 [1, prompt and new tokens], as transformers' greedy decoding writes them."""
        prompt = input_ids.shape[1]
        first = model_kwargs["position_ids"][:, -1:] - (prompt - 1)  # of a token's index, its position
        finished = False
        while not finished:
            length = input_ids.shape[1]
            guess = self._guesses.next(generation_config.max_length - length - 1)
            block = torch.cat([input_ids[:, -1:], input_ids.new_tensor([guess])], dim=1)
            outputs = model(
                input_ids=block,
                position_ids=first + torch.arange(length - 1, length + len(guess), device=first.device),
                past_key_values=self._cache,
                use_cache=True,
            )
            for place in range(len(guess) + 1):
                logits = outputs.logits[:, place].to(copy=True, dtype=torch.float32, device=input_ids.device)
                token = logits_processor(input_ids, logits).argmax(dim=-1)
                input_ids = torch.cat([input_ids, token[:, None]], dim=-1)
                if self._streamer is not None:
                    self._streamer.put(token.cpu())
                finished = bool(stopping_criteria(input_ids, None).all())
                if finished or place == len(guess) or int(token) != guess[place]:
                    break
            written = input_ids[0, length:].tolist()
            self._cache.crop(len(written) - 1 - len(guess))
            self._guesses.learn(len(guess), written)
        if self._streamer is not None:
            self._streamer.end()
        return input_ids
