"""A batch of prompts on its way from the draft's stage to the target's.

The draft's stage lives here too: what the draft reads shortens the rows and adds look-aheads. This module does not know
how the target decodes.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from spec_rag.clock import Clock
from spec_rag.config import SpecKVConfig, SpecPCConfig
from spec_rag.draft import DraftReading, pad_token_id, read_prompts
from spec_rag.errors import ConfigError
from spec_rag.models import ModelPair
from spec_rag.selection import select_prompt_tokens
from spec_rag.tokens import left_pad


@dataclass
class Request:
    """Prompts, and what became of them.

    Attributes:
        rows: int64 [tokens] each, what the target will read.
        positions: int64 [tokens] each, their rotary positions.
        prompt_tokens: lengths of the prompts as given.
        selected: per row, the prompt positions that SpecPC kept, or None if all.
        lookahead: per row int64 [look-ahead], empty where none was written.
        draft_seconds: wall time of the draft.
    """

    rows: list[Tensor]
    positions: list[Tensor]
    prompt_tokens: list[int]
    selected: list[Tensor | None]
    lookahead: list[Tensor] = field(default_factory=list)
    draft_seconds: float = 0.0

    @classmethod
    def of(cls, rows: list[Tensor]) -> Request:
        """A request whose prompts are still untouched."""
        return cls(
            rows=list(rows),
            positions=[torch.arange(len(row)) for row in rows],
            prompt_tokens=[len(row) for row in rows],
            selected=[None] * len(rows),
            lookahead=[torch.empty(0, dtype=torch.long)] * len(rows),
        )

    @property
    def longest(self) -> int:
        return max(len(row) for row in self.rows)


def is_pruned(prompt_tokens: int, speckv: SpecKVConfig | None) -> bool:
    """Whether SpecKV has anything to do for a prompt of that length."""
    if speckv is None:
        return False
    if speckv.max_capacity_prompt is None:
        return prompt_tokens > speckv.prefill_window_size + speckv.prefill_vertical_size
    return prompt_tokens > speckv.max_capacity_prompt


def read_with_draft(
    pair: ModelPair,
    request: Request,
    specpc: SpecPCConfig | None,
    speckv: SpecKVConfig | None,
    max_new_tokens: int,
    cancelled: threading.Event | None = None,
    backend: str | None = None,
) -> None:
    """One draft pass gives SpecPC its importance and SpecKV its look-ahead; prompts that fit need neither.

    With both, the look-ahead is as long as `speckv.lookahead_tokens`, else `specpc.lookahead_tokens` where that is more
    than 1, else `max_new_tokens`; importance always counts the first `specpc.lookahead_tokens` of it.
    """
    compresses = specpc is not None and request.longest > specpc.max_capacity_prompt
    read_by_target = min(request.longest, specpc.max_capacity_prompt) if specpc else request.longest
    looks_ahead = speckv is not None and speckv.lookahead == "draft" and is_pruned(read_by_target, speckv)
    if not compresses and not looks_ahead:
        return
    pair.check_same_tokens()
    steps = observed = specpc.lookahead_tokens if specpc and compresses else 1
    if speckv and looks_ahead:
        steps = speckv.lookahead_tokens or (observed if observed > 1 else max_new_tokens)
    started = time.perf_counter()
    reading = read_rows(pair, request.rows, specpc if compresses else None, max(steps, observed), cancelled, backend)
    if looks_ahead:
        pairs = zip(reading.lookahead_ids, reading.lookahead_mask, strict=True)
        request.lookahead = [ids[mask][:steps].cpu() for ids, mask in pairs]
    if specpc and reading.importance is not None:
        _drop_tokens(request, reading.importance, specpc)
    request.draft_seconds = time.perf_counter() - started


def read_rows(
    pair: ModelPair,
    rows: list[Tensor],
    specpc: SpecPCConfig | None,
    lookahead_tokens: int,
    cancelled: threading.Event | None = None,
    backend: str | None = None,
) -> DraftReading:
    """Check that the draft can read the rows, and let it.

    Raises:
        ConfigError: the longest row is shorter than the observation window.
        PromptTooLongError: the longest row is beyond the draft's context.
    """
    draft = pair.require_draft("SpecPC, or SpecKV with lookahead='draft',")
    longest = max(len(row) for row in rows)
    if specpc is not None and longest < specpc.window_size:
        raise ConfigError(
            f"window_size={specpc.window_size} is longer than the prompt of {longest} tokens: lower window_size."
        )
    pair.check_context(
        draft,
        longest + lookahead_tokens - 1,
        "draft",
        "compress the documents one by one with compress() or SpecPCCompressor, or take a draft with a longer context.",
    )
    ids, mask = left_pad(rows, pad_token_id(draft))
    return read_prompts(
        draft,
        ids,
        mask,
        specpc=specpc,
        lookahead_tokens=lookahead_tokens,
        stopping_criteria=StoppingCriteriaList([Clock(cancelled)]),
        backend=backend,
    )


def _drop_tokens(request: Request, importance: Tensor, specpc: SpecPCConfig) -> None:
    for i, row in enumerate(request.rows):
        if len(row) <= specpc.max_capacity_prompt:
            continue
        selected = select_prompt_tokens(importance[i, importance.shape[1] - len(row) :], specpc).cpu()
        request.rows[i] = row[selected.to(row.device)]
        request.selected[i] = selected
        request.positions[i] = selected if specpc.positions == "original" else torch.arange(len(selected))
