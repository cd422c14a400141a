"""Settings of the two methods: frozen, validated once, passed whole.

The field names are those of the paper's code, so that its settings work here unchanged. This module knows values and
ranges; it does not know tensors or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from spec_rag.errors import ConfigError
from spec_rag.options.presets import COMPRESSION_PRESETS, with_preset
from spec_rag.options.retention import RetentionConfig
from spec_rag.options.speckv import Lookahead, PoolType, Preset, ReductionType, SpecKVConfig
from spec_rag.text.languages import LANGUAGES
from spec_rag.utils.validation import (
    FromDict,
    check_choice,
    check_integer,
    check_patterns,
    check_share,
    check_window_fits,
)

__all__ = ["CompressionConfig", "Lookahead", "Preset", "SpecKVConfig", "SpecPCConfig"]

DEFAULT_RATIO, DEFAULT_MIN_TOKENS = 0.25, 160  # of a compression without a size; see docs/measurements.md
Positions = Literal["packed", "original"]
PromptUnit = Literal["auto", "sentence", "token"]
Scoring = Literal["per_document", "joint"]
Unit = Literal["sentence", "token", "document"]
Cascade = Literal["auto", "always", "never"]
Version = Literal["2026", "2025"]
SIZES = ("max_tokens", "ratio", "coverage")


@dataclass(frozen=True)
class SpecPCConfig(FromDict):
    """Settings of SpecPC, the compression of the prompt by the draft's attention (paper, section 4.2).

    Args:
        max_capacity_prompt: prompt tokens to keep (C_max). A prompt of at most so many passes through untouched.
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


@dataclass(frozen=True)
class CompressionConfig(RetentionConfig, FromDict):
    """Settings of the compression of documents; those of RetentionConfig are fields of it too.

    Of `max_tokens`, `ratio` and `coverage`, at most two are given: a size (`max_tokens` or `ratio`) is the cap, and
    `coverage` stops below it. With none, a quarter of the tokens is kept, and at least 160 tokens.

    The result is never empty where a unit has words: if no unit of at least average importance fits, the best one is
    kept whole, beyond the budget, and `Compression.over_budget` says by how many tokens. With `cut_units` it is cut to
    fit. `threshold` may still drop every unit.

    Args:
        max_tokens: keep at most this many tokens of all documents together.
        min_tokens: never compress below this many tokens: shorter inputs pass whole, and `ratio`, `coverage` and
            `threshold` leave at least this many. None is 160 where neither `max_tokens`, `ratio` nor `coverage` is
            given, else 0; a `threshold` still drops units below 160 tokens.
        ratio: keep at most this share of the tokens, above 0 and at most 1.
        coverage: keep the fewest units that carry this share of the importance, above 0 and at most 1.
        scoring: "per_document" reads each document on its own and lets the question look at all of them at once;
            "joint" reads one prompt of all documents, as the paper does.
        unit: what is kept or dropped: whole sentences, single tokens (the paper), or whole documents.
        retrieval: let the retriever's scores take part, where every document brings one.
        language: of the documents, as ISO 639-1 code ("en", "de", "zh" ...), for splitting sentences; "auto" detects
            each document's.
        contrast: subtract what any question would attend to (per_document only).
        likelihood: let the likelihood of the question, given each passage, take part (per_document only); "auto" does
            so where neither the retriever's scores nor an embedder say how near each document is to the question.
        cascade: which passages the draft reads: "auto" leaves out those that retrieval scores or an embedder, with
            words and titles, put far behind; "always" does so by words and titles alone too, where nothing else is
            known; "never" reads all, and asks all for the likelihood of the question, not only those that compete.
        links: let titles lead: raise a document whose title is the question, and documents whose title a promising
            unit of another document names.
        calibration: which heads of the draft to trust besides the best of each layer (per_document only): "shipped"
            takes the weights that come with the package, if it has some for the draft; None trusts no others; else
            the path of a file that `spec-rag calibrate` wrote.
        version: of reading and scoring: "2026", or "2025" for comparisons, in which a question sees the passages in
            every layer, with the weights of that year.
        ellipsis: what stands where text was dropped, such as " … "; "" joins the kept pieces with a space.
            Where a line break was dropped, one stays.
        cut_units: let the best words of a unit that does not fit whole be kept, with "…" where it was cut. False keeps
            only whole units.

    Raises:
        ConfigError: a value is out of range, or two of them contradict each other.
    """

    max_tokens: int | None = None
    min_tokens: int | None = None
    ratio: float | None = None
    coverage: float | None = None
    scoring: Scoring = "per_document"
    unit: Unit = "sentence"
    language: str = "en"
    contrast: bool = False
    likelihood: bool | Literal["auto"] = "auto"
    links: bool = True
    retrieval: bool = True
    cascade: Cascade = "auto"
    calibration: str | None = "shipped"
    version: Version = "2026"
    ellipsis: str = ""
    cut_units: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("max_tokens", self.max_tokens, 1, optional=True)
        check_integer("min_tokens", self.min_tokens, 0, optional=True)
        if self.max_tokens is not None and self.min_tokens is not None and self.min_tokens > self.max_tokens:
            raise ConfigError(
                f"min_tokens={self.min_tokens} is above max_tokens={self.max_tokens}: lower min_tokens, or raise "
                "max_tokens."
            )
        check_share("ratio", self.ratio)
        check_share("coverage", self.coverage)
        if self.max_tokens is not None and self.ratio is not None:
            raise ConfigError(
                f"max_tokens={self.max_tokens} and ratio={self.ratio} both set the size: give one of them."
            )
        check_choice("scoring", self.scoring, get_args(Scoring))
        check_choice("unit", self.unit, get_args(Unit))
        for name in ("contrast", "links", "retrieval", "cut_units"):
            check_choice(name, getattr(self, name), (True, False))
        check_choice("likelihood", self.likelihood, (True, False, "auto"))
        check_choice("cascade", self.cascade, get_args(Cascade))
        check_choice("version", self.version, get_args(Version))
        if not isinstance(self.language, str) or self.language not in LANGUAGES:
            raise ConfigError(
                f"language={self.language!r}: must be an ISO 639-1 code, such as 'en', 'de' or 'zh', or 'auto'."
            )
        if self.calibration is not None and (not isinstance(self.calibration, str) or not self.calibration.strip()):
            raise ConfigError(f"calibration={self.calibration!r}: must be None, 'shipped' or the path of a file.")
        if not isinstance(self.ellipsis, str):
            raise ConfigError(f"ellipsis={self.ellipsis!r}: must be a string.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CompressionConfig:
        """Build the config from a dict of its field names, and `preset`: a name that the rest changes.

        Raises:
            ConfigError: a name or a value is not known.
        """
        found: CompressionConfig = super().from_dict(with_preset(values))
        return found

    @classmethod
    def overridden(cls, current: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with those of one call, which win.

        A size of the call (max_tokens, ratio or coverage) takes the place of all sizes. A cap lowers a floor that is
        above it. A preset of the call takes the place of the one before.

        Args:
            current: fields of this config, and `preset`; other names are left alone.
            given: the call's settings; `preset` may be among them.

        Raises:
            ConfigError: there is no such preset.
        """
        found = dict(current)
        if "preset" in given:
            before = COMPRESSION_PRESETS.get(str(current.get("preset") or "default"), {})
            defaults = {field.name: field.default for field in fields(cls)}
            found |= {name: defaults[name] for name, value in before.items() if found.get(name) == value}
            found["preset"] = given["preset"]
        if any(given.get(name) is not None for name in SIZES):
            found |= dict.fromkeys(SIZES)
        found |= with_preset(given)
        for floor, cap in (("min_tokens", "max_tokens"), ("document_min_tokens", "document_max_tokens")):
            if isinstance(given.get(cap), int) and floor not in given and found.get(floor):
                found[floor] = min(found[floor], found[cap])
        return found

    @property
    def needs_whole_draft(self) -> bool:
        """Whether the score needs layers above the last one whose attention counts."""
        return self.likelihood is not False or self.scoring == "joint"

    def budget_tokens(self, tokens_before: int) -> int:
        """The most tokens that may be kept of `tokens_before`."""
        if self.max_tokens is not None:
            return self.max_tokens
        has_size = self.ratio is not None or self.coverage is not None
        share = self.ratio if self.ratio is not None else (1.0 if has_size else DEFAULT_RATIO)
        floor = self.min_tokens if self.min_tokens is not None else (0 if has_size else DEFAULT_MIN_TOKENS)
        return max(int(tokens_before * share), min(floor, tokens_before))

    def needs_reading(self, tokens: Sequence[int]) -> bool:
        """Whether documents of so many tokens each have to be read: to choose among them, or to order them."""
        return self.order != "given" or not self.passes_whole(tokens)

    def passes_whole(self, tokens: Sequence[int]) -> bool:
        """Whether documents of so many tokens each are left as they are."""
        before = sum(tokens)
        if self.document_max_tokens is not None and max(tokens, default=0) > self.document_max_tokens:
            return False
        if self.coverage is not None or self.threshold is not None:
            return before <= (self.min_tokens or 0)
        return before <= self.budget_tokens(before)
