"""A batch of prompts on its way from the draft's stage to the target's, and what SpecKV has to do for it.

This module knows lengths and settings; it does not know how either model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from spec_rag.models.model_config import context_tokens
from spec_rag.models.model_pair import ModelPair
from spec_rag.models.rope import RopeSwitch
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.text.chat_units import ChatUnits

_NEAR_CAPACITY = 1.25  # where so little is dropped, the window's own queries choose well enough

LookaheadBy = Literal["draft", "target", "copies", "none"]


@dataclass
class Batch:
    """Prompts, and what became of them.

    Attributes:
        rows: int64 [tokens] each, what the target will read.
        positions: int64 [tokens] each, their rotary positions.
        prompt_tokens: lengths of the prompts as given.
        selected: per row, the prompt positions that SpecPC kept, or None if all.
        units: per row, the whole units that SpecPC drops or keeps, or None where it takes single tokens.
        lookahead: per row int64 [look-ahead], empty where none was written.
        lookahead_by: per row, who is to write, or has written, the look-ahead.
        draft_seconds: wall time of the draft.
    """

    rows: list[Tensor]
    positions: list[Tensor]
    prompt_tokens: list[int]
    selected: list[Tensor | None]
    units: list[ChatUnits | None] = field(default_factory=list)
    lookahead: list[Tensor] = field(default_factory=list)
    lookahead_by: list[LookaheadBy] = field(default_factory=list)
    draft_seconds: float = 0.0

    @classmethod
    def of(cls, rows: list[Tensor], units: list[ChatUnits | None] | None = None) -> Batch:
        """A batch whose prompts are still untouched."""
        return cls(
            rows=list(rows),
            positions=[torch.arange(len(row)) for row in rows],
            prompt_tokens=[len(row) for row in rows],
            selected=[None] * len(rows),
            units=[None] * len(rows) if units is None else units,
            lookahead=[torch.empty(0, dtype=torch.long)] * len(rows),
            lookahead_by=["none"] * len(rows),
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row) for row in self.rows)


def is_pruned(prompt_tokens: int, speckv: SpecKVConfig | None) -> bool:
    """Whether SpecKV has anything to do for a prompt of that length."""
    if speckv is None:
        return False
    if speckv.max_capacity_prompt is None:
        return prompt_tokens > speckv.prefill_window_size + speckv.prefill_vertical_size
    return prompt_tokens > speckv.max_capacity_prompt


def looks_ahead(prompt_tokens: int, speckv: SpecKVConfig | None) -> bool:
    """Whether a prompt of that length is scored by a look-ahead, alone or as a row of a batch.

    "auto" does without where so little is dropped that the window's own queries choose well enough.
    """
    if speckv is None or speckv.lookahead == "none" or not is_pruned(prompt_tokens, speckv):
        return False
    capacity = speckv.max_capacity_prompt
    return speckv.lookahead != "auto" or capacity is None or prompt_tokens > _NEAR_CAPACITY * capacity


def lookahead_by(
    pair: ModelPair, speckv: SpecKVConfig | None, prompt_tokens: int, draft_tokens: int | None = None
) -> LookaheadBy:
    """Who writes the look-ahead for a prompt of that length, "none" where nobody has to.

    "auto" takes the draft; where there is none, it writes other tokens than the target reads, or `draft_tokens`, prompt
    and look-ahead together, are beyond its context, the target itself.
    """
    if speckv is None or not looks_ahead(prompt_tokens, speckv):
        return "none"
    if speckv.lookahead != "auto":
        return speckv.lookahead
    if pair.draft is None or not pair.shares_tokens:
        return "target"
    limit = context_tokens(pair.draft.config)
    return "target" if limit and (draft_tokens or prompt_tokens) > limit else "draft"


def side_of_row(
    pair: ModelPair, prompt_tokens: int, specpc: SpecPCConfig | None, written: int
) -> tuple[str, ...] | None:
    """On which side of its models' switches of rotary frequencies a row stays; rows of one side may share a batch.

    Returns:
        One side per model and length; None where it goes across a switch, so that it must be read alone.
    """
    left = prompt_tokens
    if specpc is not None and specpc.positions != "original":
        left = min(prompt_tokens, specpc.max_capacity_prompt)
    sides = []
    for model, tokens in ((pair.target, left), (pair.draft, prompt_tokens)):
        switch = RopeSwitch.of(model.config) if model is not None else None
        if switch is not None:
            sides.append(switch.side(tokens, tokens + written))
    return None if "across" in sides else tuple(sides)


def groups_of_rows(
    pair: ModelPair, lengths: Sequence[int], specpc: SpecPCConfig | None, written: int
) -> list[list[int]]:
    """Indices of rows that may share a batch, since no row changes the rotary frequencies of another.

    Args:
        pair: the models.
        lengths: tokens of each prompt.
        specpc: what is dropped of them before the target reads.
        written: at most so many tokens are written behind each.
    """
    groups: dict[object, list[int]] = {}
    for i, tokens in enumerate(lengths):
        side = side_of_row(pair, tokens, specpc, written)
        groups.setdefault(i if side is None else side, []).append(i)
    return list(groups.values())


def prompt_limit(pair: ModelPair, specpc: SpecPCConfig | None, speckv: SpecKVConfig | None) -> int | None:
    """Tokens that prompt and answer may take: the draft reads the whole prompt, the target what SpecPC leaves of it."""
    readers = [] if specpc is not None else [pair.target]
    if specpc is not None or (speckv is not None and speckv.lookahead == "draft"):
        readers.append(pair.draft)
    limits = [context_tokens(model.config) for model in readers if model is not None]
    return min((limit for limit in limits if limit), default=None)
