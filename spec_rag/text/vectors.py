"""Embeddings that a document or node carries along: vectors of its whole text, which a shortened copy must not keep.

This module does not know frameworks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_NAMED = re.compile("embed|vector", re.IGNORECASE)


def without_vectors(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without the entries that are vectors and named as such, also in dicts inside; nothing is mutated."""
    return {
        name: without_vectors(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if not is_vector(name, value)
    }


def is_vector(name: str, value: Any) -> bool:
    """Whether the value is an embedding, by its name and its kind: numbers in a list or array, or raw bytes."""
    if not isinstance(name, str) or not _NAMED.search(name):
        return False
    if isinstance(value, bytes | bytearray | memoryview):
        return True
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return True
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        return False
    rows = [row for row in value if isinstance(row, Sequence) and not isinstance(row, str)] or [value]
    return all(isinstance(number, int | float) for row in rows for number in row)
