"""Checks of single settings, whose errors name the setting, its value and what it may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from spec_rag.errors import ConfigError, unknown_field

MAX_DEPTH = 64
"""Levels of dicts and lists that JSON from outside (messages, tools, schemas, arguments) may have."""


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


def check_share(name: str, value: object) -> None:
    """Refuse what is neither None nor above 0 and at most 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1):
        raise ConfigError(f"{name}={value!r}: must be above 0 and at most 1.")


def check_window_fits(capacity: int | None, window: int) -> None:
    """Refuse a window that leaves nothing of the capacity; None stands for no capacity."""
    if capacity is not None and capacity <= window:
        raise ConfigError(
            f"max_capacity_prompt={capacity} leaves no room beside the observation window of window_size={window} "
            f"tokens, which is always kept: raise max_capacity_prompt above {window} or lower window_size."
        )


def depth_of(value: object) -> int:
    """Levels of dicts and lists in a value, 0 for a string; counting stops one level beyond MAX_DEPTH."""
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, Mapping | list | tuple)]:
        depth += 1
        if depth > MAX_DEPTH:
            break
        inner = (entry for one in level for entry in (one.values() if isinstance(one, Mapping) else one))
        level = list({id(entry): entry for entry in inner}.values())  # each once, however many places share it
    return depth


def check_depth(name: str, value: object) -> None:
    """Refuse what is nested more than MAX_DEPTH levels deep."""
    if depth_of(value) > MAX_DEPTH:
        raise ConfigError(f"{name} is nested more than {MAX_DEPTH} levels deep: give a flatter one.")


class FromDict:
    """Reads a config back from the plain dict of its fields."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Any:
        """Build the config from a dict of its field names; an unknown name raises ConfigError."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                raise unknown_field(cls.__name__, name, known)
        return cls(**values)


def check_patterns(name: str, given: object) -> tuple[str, ...]:
    """The regular expressions as a tuple of strings, or a ConfigError that names the one that is none."""
    patterns = (given,) if isinstance(given, str) else given
    if not isinstance(patterns, list | tuple | set | frozenset) or not all(isinstance(one, str) for one in patterns):
        raise ConfigError(f"{name}={given!r:.80}: give a tuple of regular expressions, as strings.")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{name}={pattern!r} is no regular expression: {error}.") from error
    return tuple(patterns)
