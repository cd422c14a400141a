"""Speculative decoding: the target verifies several tokens of the look-ahead in one pass.

The look-ahead that scored the cache also proposes the answer. The target accepts the tokens that it would have written
itself and replaces the first other one (Leviathan et al., arXiv 2211.17192, with a greedy target). A wrong proposal
costs a wider pass and never changes a token.
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
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.row_streams import RowStreamer
from spec_rag.models.model_config import cache_option

MAX_PROPOSED = 16  # tokens proposed in one pass
_FIRST_PROPOSED = 8


def can_verify(request: GenerationRequest, batch: Batch, cache: PrunedCache) -> bool:
    """Whether the look-ahead is verified: one greedy row without beams, on a target without sliding windows."""
    sampling = request.sampling
    if request.speckv is None or not request.speckv.verify_lookahead:
        return False
    if sampling.logprobs is not None or sampling.presence_penalty or sampling.frequency_penalty:
        return False  # these need the logits of each single step
    is_greedy = sampling.beams == 1 and not sampling.options["do_sample"]
    return is_greedy and len(batch.rows) == 1 and len(batch.lookahead[0]) > 0 and cache.can_roll_back


class ProposedTokens:
    """Proposals of the next tokens: the rest of a look-ahead, realigned after each token that differs.

    Attributes:
        count: tokens proposed so far.
        accepted: tokens of them that the target wrote.
    """

    def __init__(self, lookahead: Sequence[int]) -> None:
        self.count = 0
        self.accepted = 0
        self._lookahead = list(lookahead)
        self._position = 0
        self._length = _FIRST_PROPOSED

    def next(self, limit: int) -> list[int]:
        """The next tokens, at most `limit`; none at the end of the look-ahead."""
        return self._lookahead[self._position : self._position + max(min(self._length, limit), 0)]

    def update(self, proposed: int, written: Sequence[int]) -> None:
        """Record the result of one pass.

        Args:
            proposed: number of proposed tokens.
            written: the tokens that the target wrote: the accepted ones, and one of its own.
        """
        accepted = min(proposed, len(written) - 1)
        self.count += proposed
        self.accepted += accepted
        # double the length if all tokens were accepted; else max(accepted + 1, half)
        length = 2 * self._length if accepted == proposed else max(accepted + 1, self._length // 2)
        self._length = min(length, MAX_PROPOSED)
        self._position += accepted
        self._skip(written[-1])

    def _skip(self, token: int) -> None:
        """Step over the token that the target wrote: to its place nearby, else as a substitution of one token."""
        nearby = self._lookahead[self._position : self._position + 3]
        self._position += nearby.index(token) + 1 if token in nearby else 1


class VerifiedDecoding:
    """Decoding method for transformers' `generate(custom_generate=...)`: one row, greedy, from a pruned cache."""

    def __init__(
        self, cache: PrunedCache, proposals: ProposedTokens, streamer: BaseStreamer | RowStreamer | None = None
    ) -> None:
        self._cache = cache
        self._proposals = proposals
        self._streamer = streamer  # transformers does not pass it to a custom decoding method

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        *,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> Tensor:
        """int64 [1, prompt and new tokens], the same as of transformers' greedy decoding."""
        prompt = input_ids.shape[1]
        first = model_kwargs["position_ids"][:, -1:] - (prompt - 1)  # position of index 0
        past = cache_option(model.forward, self._cache)
        finished = False
        while not finished:
            length = input_ids.shape[1]
            proposed = self._proposals.next(generation_config.max_length - length - 1)
            block = torch.cat([input_ids[:, -1:], input_ids.new_tensor([proposed])], dim=1)
            outputs = model(
                input_ids=block,
                position_ids=first + torch.arange(length - 1, length + len(proposed), device=first.device),
                use_cache=True,
                **past,
            )
            for place in range(len(proposed) + 1):
                logits = outputs.logits[:, place].to(copy=True, dtype=torch.float32, device=input_ids.device)
                token = logits_processor(input_ids, logits).argmax(dim=-1)
                input_ids = torch.cat([input_ids, token[:, None]], dim=-1)
                if self._streamer is not None:
                    self._streamer.put(token.cpu())
                finished = bool(stopping_criteria(input_ids, None).all())
                if finished or place == len(proposed) or int(token) != proposed[place]:
                    break
            written = input_ids[0, length:].tolist()
            self._cache.crop(len(written) - 1 - len(proposed))  # drops the pairs of rejected tokens
            self._proposals.update(len(proposed), written)
        if self._streamer is not None:
            self._streamer.end()
        return input_ids
