"""Settings as plain values: read from dicts, and written so that a file or a cache key can carry them.

A dict may come from a file that somebody else wrote, so it can name models but never switch on code from a checkpoint.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from langchain_core.load.serializable import Serializable
from pydantic import BeforeValidator, InstanceOf

from spec_rag.config import SpecKVConfig, SpecPCConfig
from spec_rag.errors import ConfigError
from spec_rag.models.loading import LoadOptions, ModelPair


def _read_load_options(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    known = [field.name for field in fields(LoadOptions)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(f"LoadOptions has no field {unknown[0]!r}; its fields are {', '.join(known)}.")
    if given.get("trust_remote_code"):
        raise ConfigError(
            "trust_remote_code=True runs code from the checkpoint, which a dict, and so a file, cannot switch on. If "
            "you trust it, give LoadOptions(trust_remote_code=True, ...) itself."
        )
    return LoadOptions(**given)


def _reads(config: type[SpecPCConfig] | type[SpecKVConfig]) -> BeforeValidator:
    return BeforeValidator(lambda given: config.from_dict(dict(given)) if isinstance(given, Mapping) else given)


Name = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, Path) else given)]
Options = Annotated[InstanceOf[LoadOptions], BeforeValidator(_read_load_options)]
SpecPCSettings = Annotated[InstanceOf[SpecPCConfig], _reads(SpecPCConfig)]
SpecKVSettings = Annotated[InstanceOf[SpecKVConfig], _reads(SpecKVConfig)]


def plain(value: Any) -> Any:
    """A setting as JSON can hold it, where that is possible; anything else is returned as it is."""
    if isinstance(value, LoadOptions):
        return _plain_load_options(value)
    if is_dataclass(value) and not isinstance(value, type | ModelPair):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    return value


def name_of(draft: Any) -> str | None:
    """The name by which a draft can be loaded again, or None for loaded models without one."""
    if isinstance(draft, str | Path):
        return str(draft)
    name = draft.draft_name if isinstance(draft, ModelPair) else getattr(draft, "name", "")
    return str(name) or None


def unserializable(one: Serializable) -> dict[str, Any]:
    """What stands in a file for an object that holds loaded models without names; it is refused on loading."""
    repr = f"{type(one).__name__}(with loaded models that have no name)"
    return {"lc": 1, "type": "not_implemented", "id": one.lc_id(), "repr": repr}


def _plain_load_options(options: LoadOptions) -> dict[str, Any]:
    values = {field.name: getattr(options, field.name) for field in fields(LoadOptions)}
    values = {name: value for name, value in values.items() if value is not None and value is not False}
    if "dtype" in values:
        values["dtype"] = str(values["dtype"]).removeprefix("torch.")
    if hasattr(values.get("quantization_config"), "to_dict"):
        values["quantization_config"] = values["quantization_config"].to_dict()
    return values


_identities: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def identity(loaded: Any) -> str | None:
    """A name that no other object loaded in this or another process has, the same for as long as it lives."""
    return None if loaded is None else _identities.setdefault(loaded, uuid.uuid4().hex)
