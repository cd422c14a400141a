"""Settings as plain values: read from dicts, and written so that a file or a cache key can carry them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from langchain_core.load.serializable import Serializable
from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.options.loading import LoadOptions
from spec_rag.text.patterns import inline_flags
from spec_rag.utils.object_state import state_of


def _reads(kind: Any) -> tuple[PlainValidator, WithJsonSchema]:
    """Takes an object of the kind, or a dict of its fields, and gives the object."""

    def read(given: Any) -> Any:
        if isinstance(given, kind):
            return given
        if isinstance(given, Mapping):
            return kind.from_dict(dict(given))
        raise ValueError(
            f"{given!r:.80} of type {type(given).__name__}: give a {kind.__name__} or a dict of its fields."
        )

    return PlainValidator(read), WithJsonSchema({"type": "object", "title": kind.__name__})


Name = Annotated[str | Path, BeforeValidator(lambda given: str(given) if isinstance(given, Path) else given)]
Options = Annotated[LoadOptions | dict[str, Any], *_reads(LoadOptions)]
SpecPCSettings = Annotated[SpecPCConfig | dict[str, Any], *_reads(SpecPCConfig)]
SpecKVSettings = Annotated[SpecKVConfig | dict[str, Any], *_reads(SpecKVConfig)]


def plain(value: Any) -> Any:
    """A setting as JSON can hold it, where that is possible; anything else is returned as it is."""
    if isinstance(value, LoadOptions):
        return value.to_dict()
    if is_dataclass(value) and isinstance(value, SpecKVConfig | SpecPCConfig):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, re.Pattern):
        return inline_flags(value)
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def name_of(draft: Any) -> str | None:
    """The name by which a draft can be loaded again, or None for loaded models without one."""
    if isinstance(draft, str | Path):
        return str(draft)
    return str(getattr(draft, "draft_name", "") or getattr(draft, "name", "")) or None


def unserializable(one: Serializable, why: str = "with loaded models that have no name") -> dict[str, Any]:
    """What stands in a file for an object that cannot be written, such as one with loaded models without names.

    It is refused on loading.
    """
    repr = f"{type(one).__name__}({why})"
    return {"lc": 1, "type": "not_implemented", "id": one.lc_id(), "repr": repr}


class _Identity:
    """A random name for one object."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex


def identity(loaded: Any) -> str | None:
    """A name that no other object loaded in this or another process has, the same for as long as it lives."""
    return None if loaded is None else state_of(loaded, _Identity).name
