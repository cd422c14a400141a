"""SpecPC by whole sentences: which units of a chat the target reads, with what must stay of it.

This module does not know models or where importance comes from.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from spec_rag.errors import ConfigError
from spec_rag.options.compression import SpecPCConfig
from spec_rag.text.chat_units import ChatUnit, ChatUnits

_BEST_TOKENS = 3  # of a unit, whose mean is its score


def select_units(importance: Tensor, chat: ChatUnits, config: SpecPCConfig) -> Tensor:
    """Choose the prompt tokens that the target reads: the best whole units beside what is protected.

    Protected are the template, the system's turn, tools, units that match one of `config.keep`, and, as far as the
    capacity has room for them, the last message (always its last paragraph) and code fences (always their marks).

    Args:
        importance: [tokens] of one prompt.
        chat: its units.
        config: capacity and patterns.

    Returns:
        int64 [at most the capacity], ascending.

    Raises:
        ConfigError: what is protected takes more tokens than the capacity.
    """
    protected = _protected(chat, config)
    kept = torch.ones(len(importance), dtype=torch.bool)
    for unit in chat.units:
        kept[unit.start : unit.end] = unit in protected
    values = importance.float().cpu()
    scored = [
        (float(values[unit.start : unit.end].topk(min(_BEST_TOKENS, unit.end - unit.start)).values.mean()), unit)
        for unit in chat.units
        if unit not in protected
    ]
    left = config.max_capacity_prompt - int(kept.sum())
    for _, unit in sorted(scored, key=lambda one: -one[0]):
        if unit.end - unit.start <= left:
            kept[unit.start : unit.end] = True
            left -= unit.end - unit.start
    return kept.nonzero()[:, 0]


def _protected(chat: ChatUnits, config: SpecPCConfig) -> set[ChatUnit]:
    """The units that stay: as much of what should as the capacity has room for."""
    patterns = [re.compile(pattern) for pattern in config.keep]

    def always(unit: ChatUnit) -> bool:
        named = any(pattern.search(unit.text) for pattern in patterns)
        return named or unit.in_last_paragraph or unit.is_fence

    fixed = len(chat.ids) - sum(unit.end - unit.start for unit in chat.units)
    wishes: list[Callable[[ChatUnit], bool]] = [
        lambda unit: always(unit) or unit.in_last_turn or unit.fenced,
        lambda unit: always(unit) or unit.fenced,
        always,
    ]
    needed = 0
    for wish in wishes:
        protected = {unit for unit in chat.units if wish(unit)}
        needed = fixed + sum(unit.end - unit.start for unit in protected)
        if needed <= config.max_capacity_prompt:
            return protected
    raise ConfigError(
        f"max_capacity_prompt={config.max_capacity_prompt}: what is protected of the prompt (template, system, tools, "
        f"the last paragraph, keep={list(config.keep)!r}) takes {needed} tokens. Raise max_capacity_prompt, or give "
        "unit='token', which protects the last window_size tokens alone."
    )
