"""Prompt lookup: a look-ahead without decoding, from n-grams of the question that occur earlier in the prompt.

The answer often follows, in the documents, the words of the question. Copies of such pieces after the prompt attend to
their sources.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_rag.generation.prompt_batch import Batch
from spec_rag.models.model_config import context_tokens
from spec_rag.options.compression import SpecKVConfig

_QUESTION_TOKENS = 32  # the last tokens of a prompt, whose n-grams are searched in the rest
_LONGEST_MATCH = 8
_SHORTEST_MATCH = 2


def observing_tokens(target: PreTrainedModel, batch: Batch, speckv: SpecKVConfig) -> list[Tensor]:
    """Per row int64 [look-ahead and copied tokens], as many as the target's context has room for.

    A row without a look-ahead gets none, also in a batch.
    """
    limit = context_tokens(target.config)
    observing = []
    rows = zip(batch.rows, batch.positions, batch.lookahead, batch.lookahead_by, strict=True)
    for row, positions, ahead, source in rows:
        pieces = speckv.copied_pieces_for(source)
        copied = copied_from_prompt(row.cpu(), pieces) if pieces else ahead[:0]
        room = len(copied) if not limit else max(limit - int(positions[-1]) - 1 - len(ahead), 0)
        observing.append(torch.cat([ahead, copied[:room]]))
    return observing


def copied_from_prompt(ids: Tensor, pieces: int, length: int = 4) -> Tensor:
    """The occurrences in a prompt of the rarest n-grams of its last tokens, each with the tokens that follow it.

    The weight of an n-gram of 2 to 8 tokens is the sum of log(prompt tokens / occurrences) over its tokens. Pieces do
    not overlap and are in the order of the prompt.

    Args:
        ids: int64 [tokens] of one prompt.
        pieces: maximum number of pieces.
        length: number of following tokens in each.

    Returns:
        int64 [copied tokens], at most pieces * (8 + length); empty without a repeated n-gram.
    """
    end = max(len(ids) - _QUESTION_TOKENS, 0)
    if not end:
        return ids[:0]
    weights, matched = _matches(ids, end)
    taken = torch.zeros(end, dtype=torch.bool)
    found: list[tuple[int, int]] = []
    for last in weights.argsort(descending=True, stable=True).tolist():
        if len(found) == pieces or weights[last] <= 0:
            break
        start, stop = last - int(matched[last]) + 1, min(last + 1 + length, end)
        if not bool(taken[start:stop].any()):
            taken[start:stop] = True
            found.append((start, stop))
    return torch.cat([ids[:0], *(ids[start:stop] for start, stop in sorted(found))])


def _matches(ids: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Per position before `end`, the heaviest matching n-gram that ends there: float64 weights, int64 lengths."""
    _, kinds, occurrences = ids.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    rarity = torch.log(len(ids) / occurrences[kinds].double())
    weights = torch.zeros(end, dtype=torch.float64)
    matched = torch.zeros(end, dtype=torch.long)
    run = torch.zeros(end, dtype=torch.long)
    summed = torch.cat([torch.zeros(1, dtype=torch.float64), rarity[:end].cumsum(0)])
    places = torch.arange(end)
    for token in ids[end:]:  # `run` is the length of the match that ends at each position and at this token
        before = torch.cat([run[:1] * 0, run[:-1]])
        run = torch.where(ids[:end] == token, before.clamp(max=_LONGEST_MATCH - 1) + 1, 0)
        weight = torch.where(run >= _SHORTEST_MATCH, summed[places + 1] - summed[places + 1 - run], 0.0)
        better = weight > weights
        weights, matched = torch.where(better, weight, weights), torch.where(better, run, matched)
    return weights, matched
