"""How to load a checkpoint, as plain values that a serialised component can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from spec_rag.options.loading import LoadOptions


def _read(given: Any) -> LoadOptions:
    if isinstance(given, LoadOptions):
        return given
    if given is None or isinstance(given, Mapping):
        return LoadOptions.from_dict(given or {}, trusted=True)
    raise ValueError(f"{given!r:.80} of type {type(given).__name__}: give LoadOptions or a dict of its fields.")


PlainLoadOptions = Annotated[
    LoadOptions | dict[str, Any],
    PlainValidator(_read),
    PlainSerializer(lambda options: options.to_dict()),
    WithJsonSchema({"type": "object", "title": "LoadOptions"}),
]


def refuse_remote_code(data: Mapping[str, Any], *names: str) -> None:
    """Keep a serialised component from switching on code that comes with a checkpoint.

    Raises:
        ValueError: one of the named options in `data` sets trust_remote_code.
    """
    for name in names:
        if isinstance(data.get(name), Mapping):
            LoadOptions.from_dict(data[name])
