"""Options of SpecPC, the compression of a prompt. Names are those of the paper's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from spec_rag.options.definitions import CheckedOptions, documented, option
from spec_rag.options.speckv import PoolType, ReductionType
from spec_rag.utils.validation import check_patterns, check_window_fits

Positions = Literal["packed", "original"]
PromptUnit = Literal["auto", "sentence", "token"]


@documented
@dataclass(frozen=True)
class SpecPCConfig(CheckedOptions):
    """Options of SpecPC, the compression of the prompt by the draft's attention (paper, section 4.2).

    Raises:
        ConfigError: a value is out of range, or the window does not fit the capacity.
    """

    _unchecked: ClassVar = ("keep",)

    max_capacity_prompt: Annotated[
        int,
        option(
            "Prompt tokens to keep. A prompt of at most this length is unchanged, and the draft does not run.",
            level="common",
            symbol="C_max",
            ge=1,
        ),
    ] = 1024
    window_size: Annotated[
        int,
        option(
            "The last prompt tokens: their queries observe the prompt, and they are always kept.",
            symbol="n_window",
            ge=1,
        ),
    ] = 64
    kernel_size: Annotated[
        int,
        option(
            "Width in tokens of the smoothing of importance (the paper: 32 for Llama, 64 for Qwen).",
            symbol="k_pool",
            ge=1,
        ),
    ] = 32
    pool_type: Annotated[PoolType, option('Reduction of the smoothing window; `"avg"` is `"mean"`.')] = "max"
    reduction_type: Annotated[ReductionType, option("Reduction of the attention over queries, heads and layers.")] = (
        "max"
    )
    lookahead_tokens: Annotated[
        int, option("Tokens that the draft writes; their queries observe, too.", symbol="n_lookahead", ge=1)
    ] = 1
    neighbor_tokens: Annotated[
        int | None,
        option(
            "Neighbours that each selected token adds; `None` is `kernel_size`, 0 is none.", symbol="n_neighbor", ge=0
        ),
    ] = None
    starting_layer_index: Annotated[
        int, option("Index of the first draft layer whose attention counts.", symbol="l_skip", ge=0)
    ] = 8
    weighted_query: Annotated[bool, option("Weight the window's queries by a ramp from 0 to 1.")] = True
    positions: Annotated[
        Positions,
        option(
            '`"packed"` numbers the kept tokens 0, 1, 2 ... for the target; `"original"` keeps their positions in the '
            "prompt."
        ),
    ] = "packed"
    unit: Annotated[
        PromptUnit,
        option(
            'What is kept or dropped as a whole: `"token"` as in the paper; `"sentence"`: sentences, lines of code and '
            "rows of data of a chat, of which the system's turn, tools, the last message and code fences are "
            'protected; `"auto"` is `"sentence"` for messages and `"token"` for text and token ids.',
            level="common",
        ),
    ] = "auto"
    keep: Annotated[
        Any,
        option("Regular expressions; a sentence or line of a chat that matches one is kept."),
    ] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "keep", check_patterns("keep", self.keep))
        check_window_fits(self.max_capacity_prompt, self.window_size)
