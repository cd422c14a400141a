"""A batch of prompts on its way from the draft to the target, and which prompts may share one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.errors import ConfigError
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import pad_token_id
from spec_rag.models.model_config import context_tokens
from spec_rag.models.model_pair import ModelPair
from spec_rag.models.rope import RopeSwitch
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.text.chat_units import ChatUnits, chat_units
from spec_rag.text.context_prompts import question_ids
from spec_rag.text.prompts import Prompt, as_chat, prompt_ids
from spec_rag.text.tokenization import left_pad

_NEAR_CAPACITY = 1.25  # up to this multiple of the capacity, the window's queries alone select well enough

LookaheadBy = Literal["draft", "target", "copies", "none"]


@dataclass(frozen=True, eq=False)
class PromptRow:
    """One tokenized prompt.

    Attributes:
        ids: int64 [tokens].
        units: the units that SpecPC keeps or drops as a whole; None for single tokens.
    """

    ids: Tensor
    units: ChatUnits | None = None

    @classmethod
    def of(
        cls, request: GenerationRequest, prompt: Prompt, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> PromptRow:
        """Tokenize one prompt of a request; with a context, the question that follows it.

        Args:
            request: the job.
            prompt: text, chat messages or token ids.
            tokenizer: None is the target's.

        Raises:
            ConfigError: see `prompt_ids`, or `specpc.unit` needs a chat and the prompt is none.
        """
        tokenizer, specpc = tokenizer or request.pair.tokenizer, request.specpc
        if request.context is not None:
            return cls(question_ids(tokenizer, prompt))
        chat = as_chat(prompt)
        if specpc is None or specpc.unit == "token" or (chat is None and specpc.unit == "auto"):
            return cls(prompt_ids(tokenizer, prompt))
        if chat is None or tokenizer is None:
            raise ConfigError(f"unit={specpc.unit!r} keeps whole sentences of a chat: give messages, or unit='token'.")
        units = chat_units(tokenizer, chat)
        return cls(units.ids, units)


@dataclass
class Batch:
    """Prompts, and what the draft's stage made of them. All lists have one entry per row.

    Attributes:
        rows: int64 [tokens], the tokens that the target will read.
        positions: int64 [tokens], their rotary positions.
        prompt_tokens: lengths of the original prompts.
        selected: the prompt positions that SpecPC kept, or None for all.
        units: the units that SpecPC keeps or drops as a whole, or None for single tokens.
        lookahead: int64 [look-ahead], empty if none was written.
        lookahead_by: the source of the look-ahead.
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
    def of(cls, rows: Sequence[Tensor], units: Sequence[ChatUnits | None] | None = None) -> Batch:
        """A batch of unchanged prompts."""
        return cls(
            rows=list(rows),
            positions=[torch.arange(len(row)) for row in rows],
            prompt_tokens=[len(row) for row in rows],
            selected=[None] * len(rows),
            units=[None] * len(rows) if units is None else list(units),
            lookahead=[torch.empty(0, dtype=torch.long)] * len(rows),
            lookahead_by=["none"] * len(rows),
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row) for row in self.rows)


@dataclass(frozen=True)
class PaddedPrompts:
    """The rows of a batch, left-padded, on the target's device.

    Attributes:
        ids, mask, positions: int64 [batch, tokens]; the mask is 0 for padding.
        has_gaps: whether the positions differ from those that counting a row's tokens gives.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    has_gaps: bool

    @classmethod
    def of(cls, target: PreTrainedModel, batch: Batch) -> PaddedPrompts:
        """Pad the rows of a batch."""
        ids, mask = left_pad(batch.rows, pad_token_id(target))
        positions, _ = left_pad(batch.positions, 0)
        has_gaps = any(int(p[-1]) != len(p) - 1 for p in batch.positions)
        return cls(ids.to(target.device), mask.to(target.device), positions.to(target.device), has_gaps)

    def after_context(self, context: Tensor) -> PaddedPrompts:
        """The same rows, each after an int64 [tokens] context, with their padding between the two."""
        context = context.to(self.ids.device).expand(len(self.ids), -1)
        counted = torch.arange(context.shape[1], device=self.ids.device).expand_as(context)
        return PaddedPrompts(
            torch.cat([context, self.ids], dim=1),
            torch.cat([torch.ones_like(context), self.mask], dim=1),
            torch.cat([counted, self.positions + context.shape[1]], dim=1),
            True,
        )

    @property
    def tokens(self) -> int:
        """Tokens of the longest row."""
        return int(self.ids.shape[1])

    @property
    def padding(self) -> Tensor:
        """int64 [batch], padding tokens of each row."""
        return (self.mask == 0).sum(dim=1)


def is_pruned(prompt_tokens: int, speckv: SpecKVConfig | None) -> bool:
    """Whether SpecKV changes anything for a prompt of that length."""
    if speckv is None:
        return False
    if speckv.max_capacity_prompt is None:
        return prompt_tokens > speckv.prefill_window_size + speckv.prefill_vertical_size
    return prompt_tokens > speckv.max_capacity_prompt


def lookahead_by(
    pair: ModelPair, speckv: SpecKVConfig | None, prompt_tokens: int, draft_tokens: int | None = None
) -> LookaheadBy:
    """The source of the look-ahead of a prompt, alone or in a batch; "none" without one.

    "auto" is the draft. It is the target if there is no draft, if the draft has another tokenizer, or if `draft_tokens`
    (prompt and look-ahead) exceed its context. It is "none" if so little is dropped that the window's queries alone
    select well enough.
    """
    if speckv is None or speckv.lookahead == "none" or not is_pruned(prompt_tokens, speckv):
        return "none"
    if speckv.lookahead != "auto":
        return speckv.lookahead
    capacity = speckv.max_capacity_prompt
    if capacity is not None and prompt_tokens <= _NEAR_CAPACITY * capacity:
        return "none"
    if pair.draft is None or not pair.shares_tokens:
        return "target"
    limit = context_tokens(pair.draft.config)
    return "target" if limit and (draft_tokens or prompt_tokens) > limit else "draft"


def rope_sides(request: GenerationRequest, prompt_tokens: int) -> tuple[str, ...] | None:
    """On which side of each model's switch of rotary frequencies a prompt and its answer stay.

    Returns:
        One side per model that has a switch. None if the tokens cross one; the prompt must then be answered alone.
    """
    kept, specpc = prompt_tokens, request.specpc
    if specpc is not None and specpc.positions != "original":
        kept = min(prompt_tokens, specpc.max_capacity_prompt)
    sides = []
    for model, tokens in ((request.pair.target, kept), (request.pair.draft, prompt_tokens)):
        switch = RopeSwitch.of(model.config) if model is not None else None
        if switch is not None:
            sides.append(switch.side(tokens, tokens + request.most_written_tokens))
    return None if "across" in sides else tuple(sides)


def batches_of(request: GenerationRequest, lengths: Sequence[int]) -> list[list[int]]:
    """Indices of prompts that may share a batch because none changes the rotary frequencies of another.

    Args:
        request: the job.
        lengths: tokens of each prompt.
    """
    batches: dict[object, list[int]] = {}
    for i, tokens in enumerate(lengths):
        sides = rope_sides(request, tokens)
        batches.setdefault(i if sides is None else sides, []).append(i)
    return list(batches.values())


def prompt_limit(pair: ModelPair, specpc: SpecPCConfig | None, speckv: SpecKVConfig | None) -> int | None:
    """Maximum tokens of prompt and answer, from the contexts of the models that read the whole prompt."""
    readers = [] if specpc is not None else [pair.target]
    if specpc is not None or (speckv is not None and speckv.lookahead == "draft"):
        readers.append(pair.draft)
    limits = [context_tokens(model.config) for model in readers if model is not None]
    return min((limit for limit in limits if limit), default=None)
