"""LoadOptions in serialized components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from spec_rag.options.loading import LoadOptions


def _read(value: Any) -> LoadOptions:
    if isinstance(value, LoadOptions):
        return value
    if value is None or isinstance(value, Mapping):
        return LoadOptions.from_dict(value or {}, trusted=True)
    raise ValueError(f"{value!r:.80} of type {type(value).__name__}: give LoadOptions or a dict of its fields.")


PlainLoadOptions = Annotated[
    LoadOptions | dict[str, Any],
    PlainValidator(_read),
    PlainSerializer(lambda options: options.to_dict()),
    WithJsonSchema({"type": "object", "title": "LoadOptions"}),
]


def refuse_remote_code(data: Mapping[str, Any], *names: str) -> None:
    """Refuse serialized components that would run code of a checkpoint.

    Raises:
        ValueError: one of the named options in `data` sets trust_remote_code.
    """
    for name in names:
        if isinstance(data.get(name), Mapping):
            LoadOptions.from_dict(data[name])
