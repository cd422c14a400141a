"""Settings of SpecPC, the compression of a prompt. Field names are those of the paper's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from spec_rag.options.speckv import PoolType, ReductionType
from spec_rag.utils.validation import (
    FromDict,
    check_choice,
    check_integer,
    check_patterns,
    check_window_fits,
)

Positions = Literal["packed", "original"]
PromptUnit = Literal["auto", "sentence", "token"]


@dataclass(frozen=True)
class SpecPCConfig(FromDict):
    """Settings of SpecPC, the compression of the prompt by the draft's attention (paper, section 4.2).

    Args:
        max_capacity_prompt: prompt tokens to keep (C_max). A prompt of at most this length is unchanged.
        window_size: the last prompt tokens, whose queries observe the prompt and which are always kept (n_window).
        kernel_size: width in tokens of the smoothing of importance (k_pool).
        pool_type: how smoothing reduces its window: "max" or "mean" ("avg" is the same).
        reduction_type: how attention is reduced over queries, heads and layers: "max" or "mean".
        lookahead_tokens: tokens that the draft writes; their queries observe the prompt as well (n_lookahead).
        neighbor_tokens: each selected token brings this many neighbours (n_neighbor); None means kernel_size, 0 none.
        starting_layer_index: the first draft layer whose attention counts (l_skip).
        weighted_query: weigh the window's queries by a ramp from 0 to 1.
        positions: "packed" numbers the kept tokens 0, 1, 2 ... for the target; "original" keeps their own positions.
        unit: what is kept or dropped: "token" as in the paper; "sentence": whole sentences, lines of code and rows of
            data of a chat, of which the system's turn, tools, the last message and code fences are protected; "auto"
            is "sentence" for messages and "token" for text and token ids.
        keep: regular expressions; a sentence or line of a chat in which one is found is kept.

    Raises:
        ConfigError: a value is out of range, or the window does not fit the capacity.
    """

    max_capacity_prompt: int = 1024
    window_size: int = 64
    kernel_size: int = 32
    pool_type: PoolType = "max"
    reduction_type: ReductionType = "max"
    lookahead_tokens: int = 1
    neighbor_tokens: int | None = None
    starting_layer_index: int = 8
    weighted_query: bool = True
    positions: Positions = "packed"
    unit: PromptUnit = "auto"
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("unit", self.unit, get_args(PromptUnit))
        object.__setattr__(self, "keep", check_patterns("keep", self.keep))
        check_integer("max_capacity_prompt", self.max_capacity_prompt, 1)
        check_integer("window_size", self.window_size, 1)
        check_integer("kernel_size", self.kernel_size, 1)
        check_integer("lookahead_tokens", self.lookahead_tokens, 1)
        check_integer("neighbor_tokens", self.neighbor_tokens, 0, optional=True)
        check_integer("starting_layer_index", self.starting_layer_index, 0)
        check_choice("pool_type", self.pool_type, get_args(PoolType))
        check_choice("reduction_type", self.reduction_type, get_args(ReductionType))
        check_choice("weighted_query", self.weighted_query, (True, False))
        check_choice("positions", self.positions, get_args(Positions))
        check_window_fits(self.max_capacity_prompt, self.window_size)
