"""Options for the compression of documents: the only definition of their types, defaults, bounds and descriptions.

The adapters' compressors and the server's requests inherit `CompressionOptions`. The command line and the tables of
docs/options.md are generated from its fields.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from spec_rag.errors import ConfigError, unknown_field
from spec_rag.options import definitions
from spec_rag.options.definitions import Level, bounds_of, choices_of, extra
from spec_rag.options.presets import COMPRESSION_PRESETS, renamed, with_preset
from spec_rag.options.speckv import Lookahead, Preset, SpecKVConfig
from spec_rag.options.specpc import SpecPCConfig
from spec_rag.text.languages import LANGUAGES
from spec_rag.text.patterns import PATTERNS

__all__ = [
    "CompressionConfig",
    "CompressionOptions",
    "Lookahead",
    "Preset",
    "SpecKVConfig",
    "SpecPCConfig",
    "bounds_of",
    "choices_of",
    "extra",
]

DEFAULT_RATIO, DEFAULT_MIN_TOKENS = 0.25, 160  # of a compression without a size; see docs/measurements.md
Keep = str | re.Pattern[str] | Callable[[str], bool]
Scoring = Literal["per_document", "joint"]
Unit = Literal["sentence", "token", "document"]
Cascade = Literal["auto", "always", "never"]
Order = Literal["given", "relevance"]
Context = Literal["structure", "none"]
Group = Literal["size", "scoring", "output", "retention"]
SIZES = ("max_tokens", "ratio", "coverage")
# a tuple of Keep once validated; a single rule and other collections are accepted
KeepRules = Annotated[Any, WithJsonSchema({"type": "array", "items": {"type": "string"}})]


def _about(group: Group, level: Level = "expert") -> dict[str, Any]:
    return {"group": group, "level": level}


class CompressionSettings(BaseModel):
    """Fields of a compression, each with type, default, bounds, description, group and level.

    `json_schema_extra` holds the group ("size", "scoring", "output" or "retention") and the level ("common" or
    "expert").
    """

    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Keep at most this many tokens of all documents together.",
        json_schema_extra=_about("size", "common"),
    )
    min_tokens: int | None = Field(
        default=None,
        ge=0,
        description="Never compress below this many tokens; shorter inputs are returned unchanged. `None` is 160 where "
        "neither `max_tokens`, `ratio` nor `coverage` is given, else 0.",
        json_schema_extra=_about("size", "common"),
    )
    ratio: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Keep at most this share of the tokens. Without any size a quarter is kept, and at least 160 "
        "tokens.",
        json_schema_extra=_about("size", "common"),
    )
    coverage: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Keep the fewest units that carry this share of the importance, within `max_tokens` or `ratio`.",
        json_schema_extra=_about("size"),
    )
    scoring: Scoring = Field(
        default="per_document",
        description='How the draft reads: `"per_document"` encodes each document alone, and the question attends to '
        'all of them; `"joint"` reads one prompt of all documents, as in the paper.',
        json_schema_extra=_about("scoring"),
    )
    unit: Unit = Field(
        default="sentence",
        description='What is kept or dropped as a whole: `"sentence"` (also a line of code, data, lists and tables), '
        '`"token"` (whole words) or `"document"`.',
        json_schema_extra=_about("scoring", "common"),
    )
    language: str = Field(
        default="en",
        description='ISO 639-1 code of the language of the documents, for splitting sentences; `"auto"` detects it for '
        "each document (the default of the command line).",
        json_schema_extra=_about("scoring", "common"),
    )
    title_links: bool = Field(
        default=True,
        description="Raise a document whose title is the question, and documents whose title is named by a promising "
        "unit of another document. The former name `links` is accepted.",
        json_schema_extra=_about("scoring"),
    )
    retrieval: bool = Field(
        default=True,
        description="Add the retrieval scores, if every document has one. A score that is not finite is replaced by "
        "the median of the others (-inf: by the lowest), with a warning that names the document.",
        json_schema_extra=_about("scoring"),
    )
    cascade: Cascade = Field(
        default="auto",
        description='Which passages the draft reads: `"auto"` skips those that retrieval scores or an embedder, with '
        'words and titles, rank low; `"always"` skips by words and titles alone, too; `"never"` reads all.',
        json_schema_extra=_about("scoring"),
    )
    calibration: str | None = Field(
        default="shipped",
        description='Weights of the score (`per_document` only): `"shipped"` uses those of the package for the draft, '
        "or else those for any draft; or the path of a file of `spec-rag calibrate`; `None`: attention alone (`none` "
        "on the command line).",
        json_schema_extra=_about("scoring"),
    )
    ellipsis: str | None = Field(
        default=None,
        description='Text that replaces dropped text, such as `" … "`; it counts towards the budget. `None`: '
        '` [...] ` between kept pieces, and only a line break inside tables and records. `""` joins kept pieces with a '
        'space, as does `None` with `unit="token"`. A dropped line break leaves one line break.',
        json_schema_extra=_about("output"),
    )
    context: Context = Field(
        default="structure",
        description='What is kept with a unit to complete its meaning: `"structure"`: the heading above it, the '
        'header of its table, the keys of its record, its speaker, its signature; `"none"`: nothing.',
        json_schema_extra=_about("output"),
    )
    cut_units: bool = Field(
        default=False,
        description="Keep the best words of a unit that does not fit whole, with `…` where it was cut.",
        json_schema_extra=_about("output"),
    )
    keep: KeepRules = Field(
        default=(),
        description='Units that match are required: `"numbers"` (in digits), `"dates"`, `"identifiers"`, `"quotes"`, a '
        "regular expression that is searched in each unit, or a function from text to bool; one or several (repeat the "
        "option on the command line).",
        json_schema_extra=_about("retention", "common"),
    )
    keep_first: int = Field(
        default=0,
        ge=0,
        description="Number of first units of each document that are required.",
        json_schema_extra=_about("retention"),
    )
    keep_last: int = Field(
        default=0,
        ge=0,
        description="Number of last units of each document that are required.",
        json_schema_extra=_about("retention"),
    )
    context_before: int = Field(
        default=0,
        ge=0,
        description="Number of units before a kept unit that are added, nearest first, as far as they fit.",
        json_schema_extra=_about("retention"),
    )
    context_after: int = Field(
        default=0,
        ge=0,
        description="Number of units after a kept unit that are added, nearest first, as far as they fit.",
        json_schema_extra=_about("retention"),
    )
    threshold: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Drop units of less importance even if they fit; required units and context stay. Importance is "
        'the probability that a unit is needed, 0 to 1; for `scoring="joint"` and `calibration=None` a score whose '
        "average is 0.",
        json_schema_extra=_about("retention"),
    )
    document_min_tokens: int = Field(
        default=0,
        ge=0,
        description="Keep the best units of each document until they have this many tokens.",
        json_schema_extra=_about("retention"),
    )
    document_max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Keep at most this many tokens of each document.",
        json_schema_extra=_about("retention"),
    )
    order: Order = Field(
        default="given",
        description='Order of the resulting documents: `"given"`, or `"relevance"`: the document with the best kept '
        "unit first. The latter makes the draft read inputs that fit, too.",
        json_schema_extra=_about("retention"),
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_former_names(cls, values: Any) -> Any:
        return renamed(values) if isinstance(values, Mapping) else values

    @field_validator("*", mode="wrap")
    @classmethod
    def _check_option(cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        if name not in CompressionOptions.model_fields:  # a field of a subclass
            return validate(value)
        if name == "keep":
            return _checked_keep(value)
        try:
            checked = validate(value)
        except ValidationError:
            raise ConfigError(f"{name}={value!r:.200}: must be {requirement(name)}.") from None
        if name == "language" and checked not in LANGUAGES:
            raise ConfigError(f"language={value!r:.200}: must be {requirement(name)}.")
        if name == "calibration" and checked is not None and not checked.strip():
            raise ConfigError(f"calibration={value!r}: must be {requirement(name)}.")
        return checked


class CompressionOptions(CompressionSettings):
    """The settings of a compression, and the preset whose settings they change."""

    preset: str | None = Field(
        default=None,
        description='Named settings, which the other options override: `"default"` or `"paper"` (SpecPC as published).',
        json_schema_extra=_about("scoring", "common"),
    )


class CompressionConfig(CompressionSettings):
    """Settings of the compression of documents: immutable, validated, hashable.

    Of `max_tokens`, `ratio` and `coverage`, at most two are given: a size (`max_tokens` or `ratio`) is the cap, and
    `coverage` stops below it. Without any of them, a quarter of the tokens is kept, and at least 160 tokens.

    If no unit of at least average importance fits, the best one is kept whole, beyond the budget, and
    `Compression.over_budget` says by how many tokens. With `cut_units` it is cut to fit. `threshold` may still drop
    every unit, also below 160 tokens.

    What `keep`, `keep_first`, `keep_last` and `document_min_tokens` require is the same for every budget that it fits;
    otherwise a BudgetTooSmallError is raised. A sentence that occurs in several documents is required and counted once,
    at its first occurrence.

    Raises:
        ConfigError: a name is unknown, a value is out of range, or two of them contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, **settings: Any) -> None:
        settings = renamed(settings)
        for name in settings:
            if name not in type(self).model_fields:
                raise unknown_field(type(self).__name__, name, type(self).model_fields)
        try:
            super().__init__(**settings)
        except ValidationError as error:
            cause = error.errors()[0].get("ctx", {}).get("error")
            raise cause if isinstance(cause, ConfigError) else ConfigError(str(error)) from None

    def __str__(self) -> str:
        return repr(self)

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.max_tokens is not None and self.min_tokens is not None and self.min_tokens > self.max_tokens:
            raise ConfigError(
                f"min_tokens={self.min_tokens} is above max_tokens={self.max_tokens}: lower min_tokens, or raise "
                "max_tokens."
            )
        if self.max_tokens is not None and self.ratio is not None:
            raise ConfigError(
                f"max_tokens={self.max_tokens} and ratio={self.ratio} both set the size: give one of them."
            )
        if self.document_max_tokens is not None and self.document_min_tokens > self.document_max_tokens:
            raise ConfigError(
                f"document_min_tokens={self.document_min_tokens} is above document_max_tokens="
                f"{self.document_max_tokens}: lower the one, or raise the other."
            )
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CompressionConfig:
        """Build the config from a dict of its field names, and `preset`, whose settings the others override.

        Raises:
            ConfigError: a name or a value is not known.
        """
        return cls(**with_preset(values))

    @classmethod
    def overridden(cls, current: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with those of one call, which win.

        A size of the call (max_tokens, ratio or coverage) replaces all sizes. A cap lowers a minimum that is above it.
        A preset of the call replaces the previous preset.

        Args:
            current: fields of this config, and `preset`; other names are left alone.
            given: the call's settings; `preset` may be among them.

        Raises:
            ConfigError: there is no such preset.
        """
        current, given = renamed(current), renamed(given)
        settings = dict(current)
        if "preset" in given:
            before = COMPRESSION_PRESETS.get(str(current.get("preset") or "default"), {})
            settings |= {
                name: cls.model_fields[name].default for name, value in before.items() if settings.get(name) == value
            }
            settings["preset"] = given["preset"]
        if any(given.get(name) is not None for name in SIZES):
            settings |= dict.fromkeys(SIZES)
        settings |= with_preset(given)
        for minimum, cap in (("min_tokens", "max_tokens"), ("document_min_tokens", "document_max_tokens")):
            if isinstance(given.get(cap), int) and minimum not in given and settings.get(minimum):
                settings[minimum] = min(settings[minimum], settings[cap])
        return settings

    def changed(self, **settings: Any) -> CompressionConfig:
        """A copy with other settings, which are validated."""
        return type(self)(**{**dict(self), **settings})

    @property
    def held_by(self) -> str:
        """The settings that require units independently of their scores, with their values."""
        names = [name for name in ("keep", "keep_first", "keep_last") if getattr(self, name)]
        return " and ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def budget_tokens(self, tokens_before: int) -> int:
        """The maximum number of tokens to keep of `tokens_before`."""
        if self.max_tokens is not None:
            return self.max_tokens
        has_size = self.ratio is not None or self.coverage is not None
        share = self.ratio if self.ratio is not None else (1.0 if has_size else DEFAULT_RATIO)
        minimum = self.min_tokens if self.min_tokens is not None else (0 if has_size else DEFAULT_MIN_TOKENS)
        return max(int(tokens_before * share), min(minimum, tokens_before))

    def needs_reading(self, tokens: Sequence[int]) -> bool:
        """Whether documents of these token counts must be read: to select among them, or to order them."""
        return self.order != "given" or not self.passes_whole(tokens)

    def passes_whole(self, tokens: Sequence[int]) -> bool:
        """Whether documents of these token counts are returned unchanged."""
        before = sum(tokens)
        if self.document_max_tokens is not None and max(tokens, default=0) > self.document_max_tokens:
            return False
        if self.coverage is not None or self.threshold is not None:
            return before <= (self.min_tokens or 0)
        return before <= self.budget_tokens(before)


def options_of(*groups: Group) -> dict[str, FieldInfo]:
    """The fields of CompressionOptions by name, those of some groups or all."""
    fields = CompressionOptions.model_fields
    return {name: field for name, field in fields.items() if not groups or extra(field)["group"] in groups}


def requirement(name: str) -> str:
    """What an option may be, as its error message says it."""
    if name == "language":
        return "an ISO 639-1 code, such as 'en', 'de' or 'zh', or 'auto'"
    if name == "calibration":
        return "None, 'shipped' or the path of a file"
    return definitions.requirement(CompressionOptions.model_fields[name])


def _checked_keep(value: object) -> tuple[Keep, ...]:
    if isinstance(value, str | re.Pattern) or callable(value):
        rules: tuple[Any, ...] = (value,)
    elif isinstance(value, list | tuple | set | frozenset):
        rules = tuple(value)
    else:
        raise ConfigError(
            f"keep={value!r:.80}: give a tuple of {', '.join(map(repr, PATTERNS))}, regular expressions or functions."
        )
    for rule in rules:
        _check_keep(rule)
    return rules


def _check_keep(rule: object) -> None:
    if isinstance(rule, re.Pattern):
        if not isinstance(rule.pattern, str):
            raise ConfigError(f"keep={rule.pattern!r}: the regular expression is of bytes, and documents are strings.")
        return
    if callable(rule) or (isinstance(rule, str) and rule in PATTERNS):
        return
    if not isinstance(rule, str):
        raise ConfigError(f"keep={rule!r:.80}: must be a name, a regular expression or a function from text to bool.")
    near = difflib.get_close_matches(rule, PATTERNS, n=1, cutoff=0.75) if rule.isidentifier() else []
    if near:
        raise ConfigError(f"keep={rule!r}: did you mean {near[0]!r}? For the word itself give re.compile({rule!r}).")
    try:
        expression = re.compile(rule)
    except re.error as error:
        raise ConfigError(f"keep={rule!r} is no regular expression: {error}.") from error
    if expression.search("") is not None:
        raise ConfigError(f"keep={rule!r} matches everything, an empty text too: say what a unit must contain.")
