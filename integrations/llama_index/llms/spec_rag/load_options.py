"""How to load a checkpoint, as plain values that a serialised component can carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from llama_index.core.bridge.pydantic import BeforeValidator

from spec_rag.errors import ConfigError
from spec_rag.models.loading import LoadOptions


def _plain(given: Any) -> dict[str, Any]:
    """The options that differ from their defaults; dtypes by name, quantisation configs as their dicts.

    Raises:
        ConfigError: an option is unknown or contradicts another.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        known = [f.name for f in fields(LoadOptions)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ConfigError(f"LoadOptions has no field {unknown[0]!r}; its fields are {', '.join(known)}.")
        given = LoadOptions(**given)
    values = {f.name: getattr(given, f.name) for f in fields(LoadOptions)}
    plain = {name: value for name, value in values.items() if value is not None and value is not False}
    if "dtype" in plain:
        plain["dtype"] = str(plain["dtype"]).removeprefix("torch.")
    if hasattr(plain.get("quantization_config"), "to_dict"):
        plain["quantization_config"] = plain["quantization_config"].to_dict()
    return plain


PlainLoadOptions = Annotated[dict[str, Any], BeforeValidator(_plain)]


def refuse_remote_code(data: Mapping[str, Any], *names: str) -> None:
    """Keep a serialised component from switching on code that comes with a checkpoint.

    Raises:
        ValueError: one of the named options in `data` sets trust_remote_code.
    """
    for name in names:
        if isinstance(data.get(name), Mapping) and data[name].get("trust_remote_code"):
            raise ValueError(
                f"{name} in the serialised data sets trust_remote_code, which runs code from the checkpoint. If you "
                f"trust it, say so yourself: from_dict(data, {name}={{'trust_remote_code': True, ...}})."
            )
