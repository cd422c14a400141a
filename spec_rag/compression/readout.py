"""The readout: weights that turn the features of a unit into one score, and scores into probabilities.

A readout is a small JSON file. `spec-rag calibrate` trains one for a draft. The package has one for the default draft,
and one on features that every draft has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spec_rag.errors import ConfigError

_FIRST, _LAST = 6 / 30, 18 / 30  # layers 6 to 17 of SmolLM2-135M's 30
_FORMAT = 2
_ANY_DRAFT = "any"

POOLED = ("unit", "passage")
"""Attention of the best head of each layer, mean over layers: to the unit, and to its passage."""
TEXT = ("words_unit", "words_text", "words_passage", "words_title", "length", "first", "place")
"""BM25 of the unit with and without title, of its passage and of the title; length; first of its document; place."""
OUTSIDE = ("retrieval", "similarity", "document_similarity", "scorer")
"""Scores of a retriever, an embedding model and a scorer; 0 where there is none."""
QUESTION = ("attention_unit", "attention_passage", "words_found", "margin", "units")
"""Features of a whole question, from which its probabilities are computed."""


def layer_range(layers: int) -> tuple[int, int]:
    """The first and one past the last layer that are scored in a draft without a readout of its own."""
    first = min(round(layers * _FIRST), layers - 1)
    return first, max(round(layers * _LAST), first + 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Readout:
    """Weights of the features of a unit.

    Attributes:
        draft: name of the draft, or "any".
        layers, heads: layers and query heads per layer of the draft; 0 for any draft.
        first_layer: the first scored layer; the question attends to passages from it on.
        unit: [scored layers][heads], weights of the attention of each head to the unit; empty for none.
        passage: the same for the attention to the unit's passage.
        weights: of the features in POOLED, TEXT and OUTSIDE, and of "title" and "links"; missing ones are 0.
        prior: of TEXT and OUTSIDE, "title" and "links", for passages that the draft has not read.
        probability: of QUESTION, and "bias" and "slope": log-odds that the best unit is needed, and the slope of the
            log-odds below it. Empty where scores are not calibrated.
        answerable: of QUESTION, and "bias": log-odds that any unit is needed.
        training: what it was trained on: number of questions, SHA-256 of them, settings.
        report: of the cross-validation.
        format: of the file.

    Raises:
        ConfigError: a shape, a name or a number is wrong.
    """

    draft: str
    layers: int
    heads: int
    first_layer: int
    unit: Sequence[Sequence[float]]
    passage: Sequence[Sequence[float]]
    weights: Mapping[str, float]
    prior: Mapping[str, float]
    probability: Mapping[str, float] = field(default_factory=dict)
    answerable: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    format: int = _FORMAT

    def __post_init__(self) -> None:
        if self.format != _FORMAT:
            raise ConfigError(f"format={self.format!r}: this version reads calibrations of format {_FORMAT}.")
        known = {
            "weights": {*POOLED, *TEXT, *OUTSIDE, "title", "links"},
            "prior": {*TEXT, *OUTSIDE, "title", "links"},
            "probability": {*QUESTION, "bias", "slope"},
            "answerable": {*QUESTION, "bias"},
        }
        for name, allowed in known.items():
            for key, weight in getattr(self, name).items():
                if key not in allowed or not _is_number(weight):
                    raise ConfigError(f"{name}[{key!r}]={weight!r}: give a number for one of {sorted(allowed)}.")
        if not 0 <= self.first_layer <= max(self.layers - 1, 0):
            raise ConfigError(f"first_layer={self.first_layer!r}: must be a layer of {self.layers}.")
        for name in ("unit", "passage"):
            rows = getattr(self, name)
            if len(rows) != len(self.unit) or any(
                len(row) != self.heads or not all(map(_is_number, row)) for row in rows
            ):
                raise ConfigError(f"{name}: give {len(self.unit)} rows of {self.heads} numbers, as in unit.")
        if self.first_layer + len(self.unit) > self.layers:
            raise ConfigError(f"unit has {len(self.unit)} layers from {self.first_layer} on, of {self.layers}.")

    def layer_range(self, layers: int) -> tuple[int, int]:
        """The first and one past the last scored layer of a draft with `layers` layers."""
        return (self.first_layer, self.first_layer + len(self.unit)) if self.unit else layer_range(layers)

    def head_weights(self) -> Tensor | None:
        """float32 [2, layers, heads]: weights for units and for passages; None without weights of single heads."""
        return torch.tensor([self.unit, self.passage], dtype=torch.float32) if self.unit else None

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str = "calibration") -> Readout:
        """Read a readout.

        Raises:
            ConfigError: it is not one; the message names `origin`.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            if values.get("format") != _FORMAT:
                raise ConfigError(
                    f"{origin}: format={values.get('format')!r}, and this version reads format {_FORMAT}: make a new "
                    "file with `spec-rag calibrate --draft NAME --out FILE`."
                )
            return cls(**{own.name: values[own.name] for own in fields(cls)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{origin} is no calibration ({error!r}): make one with `spec-rag calibrate --draft NAME --out FILE`."
            ) from error

    def fits(self, layers: int, heads: int) -> bool:
        """Whether a draft of this shape can be read with it."""
        return self.draft == _ANY_DRAFT or (layers, heads) == (self.layers, self.heads)

    def check_fits(self, draft: str, layers: int, heads: int) -> None:
        """Refuse a draft of another shape.

        Raises:
            ConfigError: with both shapes and the way out.
        """
        if not self.fits(layers, heads):
            raise ConfigError(
                f"calibration of {self.draft!r} is for {self.layers} layers of {self.heads} heads, but the draft "
                f"{draft!r} has {layers} of {heads}: calibrate it with `spec-rag calibrate --draft {draft}`."
            )


# the weights of calibration=None, set by hand: attention alone, and what is known from outside
PLAIN = Readout(
    draft=_ANY_DRAFT,
    layers=0,
    heads=0,
    first_layer=0,
    unit=(),
    passage=(),
    weights={
        "unit": 0.5,
        "passage": 0.5,
        "retrieval": 0.75,
        "similarity": 0.75,
        "document_similarity": 0.25,
        "scorer": 1.0,
        "title": 5.0,
        "links": 4.0,
    },
    prior={
        "words_unit": 0.5,
        "words_passage": 0.5,
        "retrieval": 1.0,
        "similarity": 1.0,
        "scorer": 1.0,
        "title": 5.0,
        "links": 4.0,
    },
)


def find_readout(wanted: str | None, draft: str) -> Readout:
    """The readout that a setting asks for.

    Args:
        wanted: None for attention alone; "shipped" for the package's own for this draft, or else the one for any
            draft; else the path of a file.
        draft: name of the draft.

    Raises:
        ConfigError: the file is not there, or it is no calibration.
    """
    if wanted is None:
        return PLAIN
    if wanted == "shipped":
        return _shipped(draft) or any_draft()
    path = Path(wanted).expanduser()
    try:
        return Readout.from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"calibration={wanted!r} cannot be read ({error}): give a file that `spec-rag calibrate` wrote, 'shipped', "
            "or None."
        ) from error


def any_draft() -> Readout:
    """The shipped readout on features that every draft has."""
    found = _shipped(_ANY_DRAFT)
    assert found is not None
    return found


@lru_cache(maxsize=8)
def _shipped(draft: str) -> Readout | None:
    file = resources.files("spec_rag") / "data" / "calibrations" / f"{draft.replace('/', '--')}.json"
    return Readout.from_json(file.read_text(encoding="utf-8"), file.name) if file.is_file() else None
