"""Settings of SpecKV, and what its presets mean at a capacity.

The field names are those of the paper's code. This module does not know tensors or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from spec_rag.errors import ConfigError
from spec_rag.utils.validation import FromDict, check_choice, check_integer, check_share, check_window_fits

PoolType = Literal["max", "mean", "avg"]
ReductionType = Literal["max", "mean"]
Lookahead = Literal["auto", "draft", "none", "target", "copies"]
HeadBudget = Literal["uniform", "adaptive"]
Preset = Literal["scaled", "paper"]


@dataclass(frozen=True)
class SpecKVConfig(FromDict):
    """Settings of SpecKV, the pruning of the target's KV cache by the draft's look-ahead (paper, section 4.1).

    Args:
        max_capacity_prompt: key-value pairs that each layer and KV head keeps of the prompt (C_max); None keeps all
            and leaves only the sparse prefill. A prompt of at most so many tokens is read without a draft call.
        window_size: the last prompt tokens, whose queries observe the prompt and whose pairs are kept (n_window); None
            takes the preset's.
        kernel_size: odd width in tokens of the smoothing of the scores (k_pool); None takes the preset's.
        pool_type: how smoothing reduces its window: "max" or "mean" ("avg" is the same).
        reduction_type: how attention is reduced over queries and the query heads of a KV head: "max" or "mean".
        lookahead_tokens: at most so many look-ahead tokens are written (n_lookahead); None means max_new_tokens.
        prefill_window_size: the slash of the sparse prefill: width in tokens of its local band (n_slash).
        prefill_vertical_size: the vertical of the sparse prefill: columns that every query sees (n_vert). The prefill
            is sparse when prompt and look-ahead are longer than the two together.
        lookahead: who writes the look-ahead: "draft" (SpecKV), "none" (window queries only: SnapKV), "target" (the
            target's own first tokens, written from a window-pruned cache; no draft is needed), "copies" (nobody: pieces
            of the prompt alone) or "auto": the draft; the target where there is no draft or it has other tokens; nobody
            where the prompt is at most 1.25 times the capacity, since so little is dropped then.
        copied_pieces: so many pieces of the prompt that repeat the question's words, each with the four tokens that
            follow there, observe the prompt like a look-ahead; nobody has to write them. None takes the preset's.
        verify_lookahead: let the target check several tokens of the look-ahead in one pass, as guesses of its answer;
            the answer stays what it is, and comes sooner. For one greedy prompt without beams, on a target without
            sliding windows; elsewhere the tokens are written one by one.
        head_budget: "uniform" keeps max_capacity_prompt pairs in every KV head; "adaptive" shares a layer's budget
            among its heads by their scores (Ada-SpecKV); None takes the preset's.
        head_floor: with adaptive heads, the share of an even split that every head is sure of, above 0 and at most 1;
            no head gets more than twice an even split.
        preset: what stands for None. "paper" is the published setting: window 32, kernel 7, uniform heads, no copies.
            "scaled" spends little of a small capacity on the window, observes by copies too where the look-ahead is
            short (at most 8 tokens), and shares among heads where the target's attention takes a mask per head (sdpa,
            eager). None is "paper" where window_size or kernel_size is given, so that a setting from the paper's code
            means what it means there, else "scaled".

    Raises:
        ConfigError: a value is out of range, or the window does not fit the capacity.
    """

    max_capacity_prompt: int | None = 1024
    window_size: int | None = None
    kernel_size: int | None = None
    pool_type: PoolType = "max"
    reduction_type: ReductionType = "max"
    lookahead_tokens: int | None = None
    prefill_window_size: int = 2048
    prefill_vertical_size: int = 2048
    lookahead: Lookahead = "auto"
    copied_pieces: int | None = None
    verify_lookahead: bool = True
    head_budget: HeadBudget | None = None
    head_floor: float = 0.2
    preset: Preset | None = None

    def __post_init__(self) -> None:
        check_integer("max_capacity_prompt", self.max_capacity_prompt, 2, optional=True)
        check_integer("window_size", self.window_size, 1, optional=True)
        check_integer("kernel_size", self.kernel_size, 1, optional=True)
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size={self.kernel_size}: SpecKV smooths around each key, so it must be odd.")
        check_integer("lookahead_tokens", self.lookahead_tokens, 1, optional=True)
        check_integer("prefill_window_size", self.prefill_window_size, 1)
        check_integer("prefill_vertical_size", self.prefill_vertical_size, 1)
        check_choice("pool_type", self.pool_type, get_args(PoolType))
        check_choice("reduction_type", self.reduction_type, get_args(ReductionType))
        check_choice("lookahead", self.lookahead, get_args(Lookahead))
        check_integer("copied_pieces", self.copied_pieces, 0, optional=True)
        check_choice("verify_lookahead", self.verify_lookahead, (True, False))
        check_choice("head_budget", self.head_budget, (*get_args(HeadBudget), None))
        if self.head_floor is None:
            raise ConfigError("head_floor=None: must be above 0 and at most 1.")
        check_share("head_floor", self.head_floor)
        check_choice("preset", self.preset, (*get_args(Preset), None))
        if self.lookahead == "none" and self.copied_pieces:
            raise ConfigError(
                f"copied_pieces={self.copied_pieces} looks ahead, and lookahead='none' does not: set "
                "lookahead='copies', or leave copied_pieces out."
            )
        if self.lookahead == "copies" and self.copied_pieces == 0:
            raise ConfigError("copied_pieces=0 leaves nothing of lookahead='copies': set lookahead='none'.")
        check_window_fits(self.max_capacity_prompt, self.window)

    @property
    def is_scaled(self) -> bool:
        """Whether the preset "scaled" stands for what is None."""
        return self.preset == "scaled" or (
            self.preset is None and self.window_size is None and self.kernel_size is None
        )

    @property
    def window(self) -> int:
        """Tokens of the observation window."""
        if self.window_size is not None:
            return self.window_size
        if not self.is_scaled or self.max_capacity_prompt is None:
            return 32
        # without a look-ahead the window alone observes, and has to hold the question
        part, widest = (4, 16) if self.lookahead == "none" else (16, 8)
        return min(max(self.max_capacity_prompt // part, 4), widest, self.max_capacity_prompt - 1)

    @property
    def kernel(self) -> int:
        """Width in tokens of the smoothing."""
        if self.kernel_size is not None:
            return self.kernel_size
        if not self.is_scaled:
            return 7
        return 11 if self.lookahead == "none" else 5

    def pieces_beside(self, lookahead_by: str) -> int:
        """Pieces of the prompt that observe beside the look-ahead that "draft", "target" or nobody ("copies") wrote."""
        if lookahead_by == "none":
            return 0
        if self.copied_pieces is not None:
            return self.copied_pieces
        if lookahead_by == "copies":
            return 8
        is_short = lookahead_by == "target" if self.lookahead_tokens is None else self.lookahead_tokens <= 8
        return 4 if self.is_scaled and is_short else 0

    @property
    def adaptive(self) -> bool:
        """Whether the heads of a layer share its budget, where the attention implementation allows it."""
        return self.head_budget == "adaptive" or (self.head_budget is None and self.is_scaled)
