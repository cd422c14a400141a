"""Options of SpecKV, and the values of its presets at a capacity. Names are those of the paper's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from spec_rag.errors import ConfigError
from spec_rag.options.definitions import CheckedOptions, documented, option
from spec_rag.utils.validation import check_window_fits

PoolType = Literal["max", "mean", "avg"]
ReductionType = Literal["max", "mean"]
Lookahead = Literal["auto", "draft", "none", "target", "copies"]
HeadBudget = Literal["uniform", "adaptive"]
Preset = Literal["scaled", "paper"]


@documented
@dataclass(frozen=True)
class SpecKVConfig(CheckedOptions):
    """Options of SpecKV, the pruning of the target's KV cache by the draft's look-ahead (paper, section 4.1).

    Raises:
        ConfigError: a value is out of range, or the window does not fit the capacity.
    """

    max_capacity_prompt: Annotated[
        int | None,
        option(
            "Key-value pairs of the prompt that each layer and KV head keeps. A prompt of at most this length is "
            "unchanged, and the draft does not run. `None` keeps all; only the sparse prefill is left.",
            level="common",
            symbol="C_max",
            ge=2,
        ),
    ] = 1024
    window_size: Annotated[
        int | None,
        option(
            "The last prompt tokens: their queries observe the prompt, and their pairs are always kept. `None` is the "
            "preset's.",
            symbol="n_window",
            ge=1,
        ),
    ] = None
    kernel_size: Annotated[
        int | None,
        option("Odd width in tokens of the smoothing of scores. `None` is the preset's.", symbol="k_pool", ge=1),
    ] = None
    pool_type: Annotated[PoolType, option('Reduction of the smoothing window; `"avg"` is `"mean"`.')] = "max"
    reduction_type: Annotated[
        ReductionType, option("Reduction of the attention over queries and the query heads of a KV head.")
    ] = "max"
    lookahead_tokens: Annotated[
        int | None,
        option("Maximum length of the look-ahead; `None` is `max_new_tokens`.", symbol="n_lookahead", ge=1),
    ] = None
    prefill_window_size: Annotated[
        int, option("Width in tokens of the local band of the sparse prefill.", symbol="n_slash", ge=1)
    ] = 2048
    prefill_vertical_size: Annotated[
        int,
        option(
            "Columns of the sparse prefill that every query attends to. The prefill is sparse if prompt and look-ahead "
            "are longer than `prefill_window_size` and `prefill_vertical_size` together.",
            symbol="n_vert",
            ge=1,
        ),
    ] = 2048
    lookahead: Annotated[
        Lookahead,
        option(
            'Source of the look-ahead: `"draft"` (SpecKV), `"none"` (only the window observes: SnapKV), `"target"` '
            "(its own first tokens, from a cache that the window has pruned: LAQ; no draft is needed), "
            '`"copies"` (only pieces of the prompt) or `"auto"`: the draft; the target if there is no draft, if it has '
            "another tokenizer, or if the prompt exceeds its context; none up to 1.25 times the capacity.",
            level="common",
        ),
    ] = "auto"
    copied_pieces: Annotated[
        int | None,
        option(
            "Number of pieces of the prompt that repeat words of the question, each with the four tokens that follow, "
            "which observe like a look-ahead. `None` is the preset's.",
            ge=0,
        ),
    ] = None
    verify_lookahead: Annotated[
        bool,
        option(
            "Verify several tokens of the look-ahead in one pass of the target (speculative decoding). The answer is "
            "the same. Only for one greedy prompt without beams, on a target without sliding windows."
        ),
    ] = True
    head_budget: Annotated[
        HeadBudget | None,
        option(
            '`"uniform"` keeps `max_capacity_prompt` pairs per KV head; `"adaptive"`: the heads of a layer share its '
            "budget by their scores (Ada-SpecKV). `None` is the preset's."
        ),
    ] = None
    head_floor: Annotated[
        float,
        option(
            "With adaptive heads, the minimum of each head as a share of an even split; the maximum is twice an even "
            "split.",
            gt=0,
            le=1,
        ),
    ] = 0.2
    preset: Annotated[
        Preset | None,
        option(
            'Values of the options that are `None`: `"scaled"` or `"paper"`. `None` is `"paper"` if `window_size` or '
            '`kernel_size` is given, else `"scaled"`.'
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size={self.kernel_size}: SpecKV smooths around each key, so it must be odd.")
        if self.lookahead == "none" and self.copied_pieces:
            raise ConfigError(
                f"copied_pieces={self.copied_pieces} is a look-ahead, but lookahead='none' has none: set "
                "lookahead='copies', or leave copied_pieces out."
            )
        if self.lookahead == "copies" and self.copied_pieces == 0:
            raise ConfigError("lookahead='copies' needs pieces, but copied_pieces=0: set lookahead='none'.")
        check_window_fits(self.max_capacity_prompt, self.window)

    @property
    def is_scaled(self) -> bool:
        """Whether the preset is "scaled"."""
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
        # without a look-ahead only the window observes, so it must contain the question
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

    def copied_pieces_for(self, lookahead_by: str) -> int:
        """Number of copied pieces that observe in addition to a look-ahead of that source."""
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
        """Whether the heads of a layer share its budget, if the attention implementation takes a mask per head."""
        return self.head_budget == "adaptive" or (self.head_budget is None and self.is_scaled)
