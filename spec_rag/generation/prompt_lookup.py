"""Look-ahead without decoding: pieces of the prompt that go on where the question's own words stood before.

What answers a question often follows, in the documents, the words that the question ends on. Copied behind the prompt,
such pieces attend to the places they were taken from. This module does not know how either model runs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_rag.generation.prompt_batch import Batch
from spec_rag.models.model_config import context_tokens
from spec_rag.options.compression import SpecKVConfig

_QUESTION_TOKENS = 32  # the last tokens of a prompt, whose words are looked for before them
_LONGEST_MATCH = 8
_SHORTEST_MATCH = 2


def observing_copies(target: PreTrainedModel, batch: Batch, speckv: SpecKVConfig) -> list[Tensor]:
    """Per row int64 [look-ahead and copies], as many copies as the target's context has room for.

    A row that does not look ahead gets none, alone or beside others.
    """
    limit = context_tokens(target.config)
    observing = []
    for row, positions, ahead, by in zip(batch.rows, batch.positions, batch.lookahead, batch.lookahead_by, strict=True):
        pieces = speckv.pieces_beside(by)
        copied = copied_from_prompt(row.cpu(), pieces) if pieces else ahead[:0]
        room = len(copied) if not limit else max(limit - int(positions[-1]) - 1 - len(ahead), 0)
        observing.append(torch.cat([ahead, copied[:room]]))
    return observing


def copied_from_prompt(ids: Tensor, pieces: int, length: int = 4) -> Tensor:
    """The pieces of a prompt that repeat the rarest n-grams of its last tokens, each with what follows there.

    An n-gram of 2 to 8 tokens counts by the sum of log(prompt tokens / occurrences) over its tokens. Pieces do not
    overlap, and stand in the order of the prompt.

    Args:
        ids: int64 [tokens] of one prompt.
        pieces: at most so many.
        length: tokens that follow the n-gram in each.

    Returns:
        int64 [copied tokens], at most pieces * (8 + length); empty where nothing is repeated.
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
    """Per position before `end`, the best n-gram of the question that ends there: float64 weights, int64 lengths."""
    _, kinds, occurrences = ids.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    rarity = torch.log(len(ids) / occurrences[kinds].double())
    weights = torch.zeros(end, dtype=torch.float64)
    matched = torch.zeros(end, dtype=torch.long)
    run = torch.zeros(end, dtype=torch.long)
    summed = torch.cat([torch.zeros(1, dtype=torch.float64), rarity[:end].cumsum(0)])
    places = torch.arange(end)
    for token in ids[end:]:
        before = torch.cat([run[:1] * 0, run[:-1]])
        run = torch.where(ids[:end] == token, before.clamp(max=_LONGEST_MATCH - 1) + 1, 0)
        weight = torch.where(run >= _SHORTEST_MATCH, summed[places + 1] - summed[places + 1 - run], 0.0)
        better = weight > weights
        weights, matched = torch.where(better, weight, weights), torch.where(better, run, matched)
    return weights, matched
