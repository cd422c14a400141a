"""Options as annotated fields: bounds, choices, description and level of each are written once, in its annotation.

Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Literal, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from spec_rag.errors import ConfigError, unknown_field

Level = Literal["common", "expert"]

C = TypeVar("C", bound=type)


def option(description: str, *, level: Level = "expert", symbol: str = "", **bounds: Any) -> Any:
    """The annotation of one option.

    Args:
        description: what the option does; complete sentences.
        level: "common" or "expert".
        symbol: the paper's symbol.
        **bounds: `ge`, `gt`, `le`.
    """
    return Field(description=description, json_schema_extra={"level": level, "symbol": symbol}, **bounds)


class CheckedOptions:
    """Base of frozen dataclasses whose fields are annotated with `option`; validates each by its annotation."""

    _unchecked: ClassVar[tuple[str, ...]] = ()  # fields that a subclass validates itself

    def __post_init__(self) -> None:
        """Validate every field.

        Raises:
            ConfigError: a value is out of range; the message names it and the allowed values.
        """
        for name, adapter in _validators(cast(Any, type(self))).items():
            value = getattr(self, name)
            try:
                adapter.validate_python(value, strict=True)
            except ValidationError:
                raise ConfigError(f"{name}={value!r}: must be {requirement(fields_of(type(self))[name])}.") from None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the options from a dict of their names.

        Raises:
            ConfigError: a name is unknown, or a value is out of range.
        """
        known = fields_of(cls)
        for name in values:
            if name not in known:
                raise unknown_field(cls.__name__, name, known)
        return cls(**values)


def documented(cls: C) -> C:
    """Insert the options' descriptions into a class's docstring, so that `help` shows them."""
    summary, _, raises = inspect.cleandoc(cls.__doc__ or "").partition("\n\nRaises:")
    arguments = "\n".join(f"    {name}: {field.description}" for name, field in fields_of(cls).items())
    cls.__doc__ = f"{summary}\n\nArgs:\n{arguments}\n\nRaises:{raises}"
    return cls


def fields_of(cls: type) -> dict[str, FieldInfo]:
    """The options of a dataclass by name, as pydantic's fields."""
    return _fields_of(cast(Any, cls))  # Any: mypy takes a dataclass with a `__hash__` for an unhashable type


@cache
def _fields_of(cls: Any) -> dict[str, FieldInfo]:
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for field in fields(cls):
        info = FieldInfo.from_annotation(hints[field.name])
        info.default = field.default
        found[field.name] = info
    return found


@cache
def _validators(cls: Any) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(cls, include_extras=True)
    config = ConfigDict(arbitrary_types_allowed=True)
    names = [name for name in fields_of(cls) if name not in cls._unchecked]
    return {name: TypeAdapter(hints[name], config=config) for name in names}


def extra(field: FieldInfo) -> dict[str, Any]:
    """Level of an option, and its group or its symbol."""
    return cast(dict[str, Any], field.json_schema_extra)


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The values that an option of literals and booleans may have; () for other types."""
    if annotation is bool:
        return (True, False)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    members = [choices_of(member) for member in get_args(annotation) if member is not type(None)]
    return tuple(value for values in members for value in values) if members and all(members) else ()


def bounds_of(field: FieldInfo) -> dict[str, Any]:
    """The bounds of an option: `ge`, `gt`, `le`, as far as it has them."""
    return {
        name: value
        for entry in field.metadata
        for name in ("ge", "gt", "le")
        if (value := getattr(entry, name, None)) is not None
    }


def requirement(field: FieldInfo) -> str:
    """The allowed values of an option, as its error message says them."""
    types = get_args(field.annotation) or (field.annotation,)
    is_optional = type(None) in types
    if choices := choices_of(field.annotation):
        return f"one of {', '.join(map(repr, (*choices, None) if is_optional else choices))}"
    nullable = " or None" if is_optional else ""
    bounds = bounds_of(field)
    if int in types:
        return f"an integer of at least {bounds['ge']}{nullable}"
    if float in types:
        return f"above {bounds['gt']} and at most {bounds['le']}" if bounds else f"a finite number{nullable}"
    return f"a string{nullable}"
