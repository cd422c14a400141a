"""Command-line options of a compression, generated from the fields of CompressionOptions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from spec_rag.options.compression import CompressionConfig, CompressionOptions, extra

DEFAULTS: dict[str, Any] = {"language": "auto"}
"""Defaults of the command line that differ from those of CompressionOptions; the description says so."""
_FURTHER_FLAGS = {"max_tokens": ("--max-tokens", "--budget")}


def compression_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that adds compression options to a command, which takes them as `**settings`.

    Args:
        names: names of the options; empty adds all.
    """
    fields = {name: CompressionOptions.model_fields[name] for name in names or ordered_names()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        added = [_parameter(name, field) for name, field in fields.items()]

        @wraps(command)
        def run(*arguments: Any, **options: Any) -> None:
            command(*arguments, **options)

        signature = inspect.Signature([*parameters, *added])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()} | {
            "return": None
        }
        return run

    return decorate


def ordered_names() -> list[str]:
    """The names of all options, common ones first."""
    fields = CompressionOptions.model_fields
    return sorted(fields, key=lambda name: extra(fields[name])["level"] != "common")


def compression_settings(**options: Any) -> dict[str, Any]:
    """Validate the options; return those that differ from the defaults of CompressionConfig.

    Raises:
        ConfigError: an option is out of range, or two options contradict each other.
    """
    settings = {name: value for name, value in options.items() if value is not None}
    if settings.get("calibration") == "none":
        settings["calibration"] = None
    config = CompressionConfig.from_dict(settings)
    fields = CompressionConfig.model_fields
    return {name: value for name, value in config if value != fields[name].default}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind, is_flag = _option_type(name, field.annotation)
    option = name.replace("_", "-")
    flags = (f"--{option}/--no-{option}",) if is_flag else _FURTHER_FLAGS.get(name, (f"--{option}",))
    default = DEFAULTS.get(name, field.default)
    info = typer.Option(
        *flags,
        help=field.description,
        show_default=str(default) if default not in (None, "", ()) else False,
    )
    annotation = Annotated[kind | None, info]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS.get(name), annotation=annotation)


def _option_type(name: str, annotation: Any) -> tuple[Any, bool]:
    """The type of an option on the command line, and whether it is a flag."""
    if name == "keep":
        return list[str], False
    if get_origin(annotation) in (UnionType, Union):
        annotation = next(member for member in get_args(annotation) if member is not type(None))
    if annotation is bool:
        return bool, True
    assert annotation in (int, float, str) or get_origin(annotation) is Literal, annotation
    return annotation, False
