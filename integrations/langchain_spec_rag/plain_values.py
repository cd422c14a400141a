"""Settings as plain values for serialization and cache keys."""

from __future__ import annotations

import re
import uuid
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from langchain_core.load.serializable import Serializable

from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.options.loading import LoadOptions
from spec_rag.text.patterns import inline_flags
from spec_rag.utils.object_state import state_of


def plain(value: Any) -> Any:
    """Convert a setting to JSON types where possible; other values are returned unchanged."""
    if isinstance(value, LoadOptions):
        return value.to_dict()
    if is_dataclass(value) and isinstance(value, SpecKVConfig | SpecPCConfig):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, re.Pattern):
        return inline_flags(value)
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def name_of(draft: Any) -> str | None:
    """The name by which a draft can be loaded again; None for loaded models without a name."""
    if isinstance(draft, str | Path):
        return str(draft)
    return str(getattr(draft, "draft_name", "") or getattr(draft, "name", "")) or None


def unserializable(model: Serializable, why: str = "with loaded models that have no name") -> dict[str, Any]:
    """The serialized form of an object that cannot be serialized; LangChain refuses to load it."""
    repr = f"{type(model).__name__}({why})"
    return {"lc": 1, "type": "not_implemented", "id": model.lc_id(), "repr": repr}


class _Identity:
    """Random name of one object."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex


def identity(loaded: Any) -> str | None:
    """A name of a loaded object that is unique across processes and stable during its lifetime."""
    return None if loaded is None else state_of(loaded, _Identity).name
