"""Settings by name. This module knows names and values, not what they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spec_rag.errors import ConfigError

COMPRESSION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper": {
        "scoring": "joint",
        "unit": "token",
        "likelihood": False,
        "links": False,
        "retrieval": False,
        "calibration": None,
        "cascade": "never",
        "version": "2025",
    },
    "2025-default": {
        "contrast": True,
        "likelihood": True,
        "calibration": None,
        "cascade": "never",
        "version": "2025",
    },
}
"""Settings by name: today's, the paper's (single tokens by the attention in one prompt), and the default of 2025."""


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of the preset that they name under `preset`, which they change.

    Raises:
        ConfigError: there is no such preset.
    """
    settings = dict(given)
    name = settings.pop("preset", None) or "default"
    if name not in COMPRESSION_PRESETS:
        raise ConfigError(f"preset={name!r}: must be one of {', '.join(map(repr, COMPRESSION_PRESETS))}.")
    return {**COMPRESSION_PRESETS[name], **settings}
