"""Checks of single settings. Errors name the setting, its value and the allowed values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from spec_rag.errors import ConfigError, unknown_field

MAX_DEPTH = 64
"""Maximum nesting of JSON input (messages, tools, schemas, arguments)."""


def check_integer(name: str, value: object, minimum: int, *, optional: bool = False) -> None:
    """Require an integer of at least `minimum`, or None if `optional`."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        nullable = " or None" if optional else ""
        raise ConfigError(f"{name}={value!r}: must be an integer of at least {minimum}{nullable}.")


def check_choice(name: str, value: object, choices: tuple[Any, ...]) -> None:
    """Require one of the choices."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name}={value!r}: must be one of {listed}.")


def check_share(name: str, value: object) -> None:
    """Require a number in (0, 1], or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1):
        raise ConfigError(f"{name}={value!r}: must be above 0 and at most 1.")


def check_window_fits(capacity: int | None, window: int) -> None:
    """Require a capacity larger than the observation window; None is unlimited."""
    if capacity is not None and capacity <= window:
        raise ConfigError(
            f"max_capacity_prompt={capacity} leaves no room next to the observation window of window_size={window} "
            f"tokens, which is always kept: raise max_capacity_prompt above {window} or lower window_size."
        )


def depth_of(value: object) -> int:
    """Nesting depth of dicts and lists, 0 for a string; at most MAX_DEPTH + 1 is counted."""
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, Mapping | list | tuple)]:
        depth += 1
        if depth > MAX_DEPTH:
            break
        inner = (entry for item in level for entry in (item.values() if isinstance(item, Mapping) else item))
        level = list({id(entry): entry for entry in inner}.values())  # each object once, even if it is shared
    return depth


def check_depth(name: str, value: object) -> None:
    """Require a nesting of at most MAX_DEPTH levels."""
    if depth_of(value) > MAX_DEPTH:
        raise ConfigError(f"{name} is nested more than {MAX_DEPTH} levels deep: give a flatter one.")


class FromDict:
    """Mixin that builds a config from a dict of its fields."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Any:
        """Build the config from a dict of its field names; an unknown name raises ConfigError."""
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        for name in values:
            if name not in names:
                raise unknown_field(cls.__name__, name, names)
        return cls(**values)


def check_patterns(name: str, value: object) -> tuple[str, ...]:
    """Return the regular expressions as a tuple of strings; ConfigError names an invalid one."""
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, list | tuple | set | frozenset) or not all(
        isinstance(pattern, str) for pattern in patterns
    ):
        raise ConfigError(f"{name}={value!r:.80}: give a tuple of regular expressions, as strings.")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{name}={pattern!r} is not a regular expression: {error}.") from error
    return tuple(patterns)
