"""Named settings, and former names of options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spec_rag.errors import ConfigError

COMPRESSION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper": {
        "scoring": "joint",
        "unit": "token",
        "title_links": False,
        "retrieval": False,
        "calibration": None,
        "cascade": "never",
    },
}
"""Settings by name: the defaults, and the paper's (single tokens by the attention in one prompt)."""


FORMER_NAMES: Mapping[str, str] = {"links": "title_links"}
REMOVED: Mapping[str, str] = {"likelihood": "the score no longer uses the likelihood of the question"}


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the present name of each option.

    Raises:
        ConfigError: an option is given by both names, or it was removed.
    """
    for name, reason in REMOVED.items():
        if name in settings:
            raise ConfigError(f"{name}={settings[name]!r}: this option was removed, since {reason}: leave it out.")
    for former, name in FORMER_NAMES.items():
        if former in settings and name in settings:
            raise ConfigError(
                f"{name}={settings[name]!r} and {former}={settings[former]!r} are the same option: give {name}."
            )
    return {FORMER_NAMES.get(name, name): value for name, value in settings.items()}


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and those of the preset that `preset` names, which the others override.

    Raises:
        ConfigError: there is no such preset.
    """
    settings = renamed(given)
    name = settings.pop("preset", None) or "default"
    if name not in COMPRESSION_PRESETS:
        raise ConfigError(f"preset={name!r}: must be one of {', '.join(map(repr, COMPRESSION_PRESETS))}.")
    return {**COMPRESSION_PRESETS[name], **settings}
