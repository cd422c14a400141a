"""Validation of a tool call's arguments against the tool's parameters, a JSON schema.

Schema and arguments are untrusted, so the work is bounded: regular expressions have a time limit, and the number of
references is limited. Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spec_rag.errors import MissingDependencyError
from spec_rag.utils.validation import MAX_DEPTH, depth_of

_MAX_REFERENCES = 1000  # per validation
_PATTERN_SECONDS = 0.1


def misfit(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> str | None:
    """The first violation of the parameters by the arguments, or None.

    An invalid schema, or one that refers to another document, accepts everything.

    Args:
        arguments: the arguments of one call.
        parameters: a JSON schema.

    Raises:
        MissingDependencyError: jsonschema is not installed.
    """
    if depth_of(arguments) > MAX_DEPTH:
        return f"they are nested more than {MAX_DEPTH} levels deep"
    if not parameters:
        return None
    try:
        from jsonschema import Draft202012Validator, validators
        from jsonschema.exceptions import SchemaError
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'The arguments of tool calls are checked by jsonschema: pip install "spec-rag[structured]"'
        ) from error
    kind = validators.validator_for(parameters, default=Draft202012Validator)
    try:
        kind.check_schema(parameters)
        bounded = validators.extend(kind, _bounded_keywords(kind))
        # an empty registry: no schema is fetched
        for fault in bounded(dict(parameters), registry=Registry()).iter_errors(arguments):
            place = "".join(f"[{one!r}]" for one in fault.absolute_path)
            return f"{place + ': ' if place else ''}{fault.message:.200}"
    except (SchemaError, Unresolvable):
        return None
    except (_TooManyReferences, RecursionError):
        return "the schema's references do not end"
    return None


class _TooManyReferences(Exception):
    """The limit of references was exceeded."""


def _bounded_keywords(kind: Any) -> dict[str, Any]:
    """Replacements of the keywords whose validation a hostile schema could make endless."""
    followed = 0

    def counted(keyword: str) -> Any:
        follow = kind.VALIDATORS.get(keyword)

        def reference(validator: Any, target: Any, instance: Any, schema: Any) -> Iterator[Any]:
            nonlocal followed
            followed += 1
            if followed > _MAX_REFERENCES:
                raise _TooManyReferences
            yield from follow(validator, target, instance, schema) or ()

        return reference

    references = {name: counted(name) for name in ("$ref", "$dynamicRef") if name in kind.VALIDATORS}
    return {
        **references,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "unevaluatedProperties": _unchecked,
    }


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _found(pattern, instance):
        yield _error(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    for pattern, inner in patterns.items():
        for name, value in instance.items():
            if _found(pattern, name):
                yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, value in instance.items():
        if name in named or any(_found(pattern, name) for pattern in patterns):
            continue
        if allowed is False:
            yield _error(f"{name!r} is not one of the properties {', '.join(map(repr, named)) or '(none)'}")
        elif isinstance(allowed, dict):
            yield from validator.descend(value, allowed, path=name)


def _unchecked(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    yield from ()


def _error(message: str) -> Any:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message)


def _found(pattern: str, text: str) -> bool:
    """Whether the pattern matches somewhere in the text; True for an invalid pattern, False after the time limit."""
    import regex

    try:
        return regex.search(pattern, text, timeout=_PATTERN_SECONDS) is not None
    except regex.error:
        return True
    except TimeoutError:
        return False
