"""Compression inside a growing conversation: a text compressed once stays the same, byte for byte.

A text is compressed for the question current at its turn. Later questions do not change it, so a server's prefix cache
stays valid.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from spec_rag.utils.lru_cache import LRUCache

PAIR_BYTES = 128  # of two integers in a list, such as a span
_ENTRY_BYTES = 512  # of a key, the address of something, and its place

T = TypeVar("T")
Turn = tuple[str, str]
"""Role ("user" for questions) and text."""


def question_at(turns: Sequence[Turn], place: int) -> str:
    """The question in force at a turn: the text of the run of user turns around it, or of the last run before it.

    Args:
        turns: the conversation; blank texts ask nothing.
        place: index of a turn.

    Returns:
        "" if no question was asked until then.
    """
    last = place
    while last + 1 < len(turns) and turns[place][0] == turns[last + 1][0] == "user":
        last += 1
    while last >= 0:
        if turns[last][0] != "user":
            last -= 1
            continue
        first = last
        while first > 0 and turns[first - 1][0] == "user":
            first -= 1
        asked = "\n".join(text for _, text in turns[first : last + 1] if text.strip())
        if asked:
            return asked
        last = first - 1
    return ""


def text_bytes(text: str, pairs: int = 0) -> int:
    """Bytes of a text and `pairs` spans in memory."""
    return sys.getsizeof(text) + pairs * PAIR_BYTES


class WriteOnceCache(Generic[T]):
    """LRU cache whose values are never replaced by `keep`. Thread-safe.

    A value larger than `max_bytes` is not stored.

    Args:
        most: maximum number of values.
        max_bytes: bound on their bytes.
        size_of: returns the bytes of a value.
    """

    def __init__(self, most: int, max_bytes: int, size_of: Callable[[T], int]) -> None:
        self._held: LRUCache[Hashable, T] = LRUCache(max_bytes, most)
        self._size_of = size_of

    @property
    def held_bytes(self) -> int:
        """Bytes of all values."""
        return self._held.held_bytes

    def get(self, key: Hashable) -> T | None:
        """The value, or None."""
        return self._held.get(key)

    def keep(self, key: Hashable, value: T) -> T:
        """Store a value unless the key has one; return the stored value."""
        with self._held.lock:
            found = self._held.get(key)
            if found is not None:
                return found
            self.replace(key, value)
            return value

    def replace(self, key: Hashable, value: T) -> None:
        """Store a value, replacing an existing one."""
        self._held.put(key, value, self._size_of(value) + _ENTRY_BYTES)
