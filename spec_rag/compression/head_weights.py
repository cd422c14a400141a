"""Which layers and heads of a draft to listen to.

Of an unknown draft a fixed part of its depth counts, and in each layer its best head. A calibration says how far each
head is to be trusted; it is a small JSON file, made by `spec-rag calibrate`. This module does not know how attention is
read or how trust is learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from spec_rag.errors import ConfigError

_FIRST, _LAST = 8 / 30, 20 / 30  # layers 8 to 19 of SmolLM2-135M's 30
_FORMAT = 1

Of = Literal["unit", "passage"]


def layer_range(layers: int) -> tuple[int, int]:
    """Of a draft of so many layers, the first one that counts and the one behind the last."""
    first = min(round(layers * _FIRST), layers - 1)
    return first, max(round(layers * _LAST), first + 1)


@dataclass(frozen=True)
class Calibration:
    """How far each head of a draft is trusted.

    Attributes:
        draft: name of the draft.
        layers: its layers in all.
        heads: query heads of a layer.
        unit: weights of the heads that tell units apart, by "layer.head"; a head that is missing counts nothing.
        passage: the same for whole passages.
        questions, seed: what it was learned on.
        format: of the file.

    Raises:
        ConfigError: a weight is negative, all are zero, or a head is not the draft's.
    """

    draft: str
    layers: int
    heads: int
    unit: Mapping[str, float]
    passage: Mapping[str, float]
    questions: int
    seed: int
    format: int = _FORMAT

    def __post_init__(self) -> None:
        if self.format != _FORMAT:
            raise ConfigError(f"format={self.format!r}: this version reads calibrations of format {_FORMAT}.")
        for name, weights in (("unit", self.unit), ("passage", self.passage)):
            for place, weight in weights.items():
                layer, _, head = place.partition(".")
                known = layer.isdigit() and head.isdigit() and int(layer) < self.layers and int(head) < self.heads
                if not known or not isinstance(weight, int | float) or not weight >= 0:
                    raise ConfigError(
                        f"{name}[{place!r}]={weight!r}: give 'layer.head' of {self.layers} layers of {self.heads} "
                        "heads, and a weight of at least 0."
                    )
            if not sum(weights.values()) > 0:
                raise ConfigError(f"{name}={dict(weights)!r}: at least one head must have a weight above 0.")

    def weights(self, of: Of, first_layer: int, last_layer: int) -> Tensor:
        """float32 [last_layer - first_layer, heads], summing to 1 if all weights are in these layers."""
        given: Mapping[str, float] = getattr(self, of)
        found = torch.zeros(self.layers, self.heads)
        for place, weight in given.items():
            layer, _, head = place.partition(".")
            found[int(layer), int(head)] = weight
        return (found / found.sum())[first_layer:last_layer]

    @property
    def layer_range(self) -> tuple[int, int]:
        """The first layer with a trusted head, and the one behind the last."""
        layers = [int(place.split(".")[0]) for given in (self.unit, self.passage) for place, w in given.items() if w]
        return min(layers), max(layers) + 1

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str = "calibration") -> Calibration:
        """Read a calibration.

        Raises:
            ConfigError: it is not one; the message names `origin`.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{origin} is no calibration ({error!r}): make one with `spec-rag calibrate --draft NAME --out FILE`."
            ) from error

    def check_fits(self, draft: str, layers: int, heads: int) -> None:
        """Refuse a draft of another shape.

        Raises:
            ConfigError: with both shapes and the way out.
        """
        if (layers, heads) != (self.layers, self.heads):
            raise ConfigError(
                f"calibration of {self.draft!r} is for {self.layers} layers of {self.heads} heads, but the draft "
                f"{draft!r} has {layers} of {heads}: calibrate it with `spec-rag calibrate --draft {draft}`."
            )


def find_calibration(wanted: str | None, draft: str) -> Calibration | None:
    """The calibration that a setting asks for.

    Args:
        wanted: None for none; "shipped" for the one that comes with the package, if the draft has one; else a file.
        draft: name of the draft.

    Raises:
        ConfigError: the file is not there, or it is no calibration.
    """
    if wanted is None:
        return None
    if wanted == "shipped":
        file = resources.files("spec_rag") / "data" / "calibrations" / f"{draft.replace('/', '--')}.json"
        return Calibration.from_json(file.read_text(encoding="utf-8"), file.name) if file.is_file() else None
    path = Path(wanted).expanduser()
    try:
        return Calibration.from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"calibration={wanted!r} cannot be read ({error}): give a file that `spec-rag calibrate` wrote, 'shipped', "
            "or None."
        ) from error
