"""SpecPC by whole sentences: selection of the units of a chat that the target reads."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from spec_rag.errors import ConfigError
from spec_rag.options.compression import SpecPCConfig
from spec_rag.text.chat_units import ChatUnit, ChatUnits

_BEST_TOKENS = 3  # their mean is the score of a unit


def select_units(importance: Tensor, chat: ChatUnits, config: SpecPCConfig) -> Tensor:
    """Select the prompt tokens that the target reads: protected tokens, and the best whole units that fit.

    Protected are the template, the system's turn, tools, units that match one of `config.keep`, the last paragraph and
    the markers of code fences; as far as they fit, also the rest of the last message and the content of code fences.

    Args:
        importance: [tokens] of one prompt.
        chat: its units.
        config: capacity and patterns.

    Returns:
        int64 [at most the capacity], ascending.

    Raises:
        ConfigError: the protected tokens exceed the capacity.
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
    for _, unit in sorted(scored, key=lambda entry: -entry[0]):
        if unit.end - unit.start <= left:
            kept[unit.start : unit.end] = True
            left -= unit.end - unit.start
    return kept.nonzero()[:, 0]


def _protected(chat: ChatUnits, config: SpecPCConfig) -> set[ChatUnit]:
    """The largest of three sets of units to protect that fits the capacity."""
    patterns = [re.compile(pattern) for pattern in config.keep]

    def always(unit: ChatUnit) -> bool:
        matches = any(pattern.search(unit.text) for pattern in patterns)
        return matches or unit.in_last_paragraph or unit.is_fence

    fixed = len(chat.ids) - sum(unit.end - unit.start for unit in chat.units)
    candidates: list[Callable[[ChatUnit], bool]] = [
        lambda unit: always(unit) or unit.in_last_turn or unit.fenced,
        lambda unit: always(unit) or unit.fenced,
        always,
    ]
    needed = 0
    for is_protected in candidates:
        protected = {unit for unit in chat.units if is_protected(unit)}
        needed = fixed + sum(unit.end - unit.start for unit in protected)
        if needed <= config.max_capacity_prompt:
            return protected
    raise ConfigError(
        f"max_capacity_prompt={config.max_capacity_prompt}: what is protected of the prompt (template, system, tools, "
        f"the last paragraph, keep={list(config.keep)!r}) takes {needed} tokens. Raise max_capacity_prompt, or give "
        "unit='token', which protects the last window_size tokens alone."
    )
