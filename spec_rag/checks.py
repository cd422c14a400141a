"""Checks of single settings, whose errors name the setting, its value and what it may be."""

from __future__ import annotations

from typing import Any

from spec_rag.errors import ConfigError


def check_integer(name: str, value: object, minimum: int, *, optional: bool = False) -> None:
    """Refuse what is no integer of at least `minimum` (or None, where that is allowed)."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        nullable = " or None" if optional else ""
        raise ConfigError(f"{name}={value!r}: must be an integer of at least {minimum}{nullable}.")


def check_choice(name: str, value: object, choices: tuple[Any, ...]) -> None:
    """Refuse what is none of the choices."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name}={value!r}: must be one of {listed}.")
