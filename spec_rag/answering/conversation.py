"""Compression in a conversation: each text is compressed once, for the question at its turn.

Later questions do not change it, so the prefix cache of a server stays valid.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from spec_rag.utils.lru_cache import LRUCache

PAIR_BYTES = 128  # two integers in a list, such as a span
_ENTRY_BYTES = 512  # key and dict entry

T = TypeVar("T")
Turn = tuple[str, str]
"""Role ("user" for questions) and text."""


def question_at(turns: Sequence[Turn], place: int) -> str:
    """The question at a turn: the text of the run of user turns that contains it, or of the last run before it.

    Args:
        turns: the conversation; blank texts are ignored.
        place: index of a turn.

    Returns:
        "" without a question.
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
        question = "\n".join(text for _, text in turns[first : last + 1] if text.strip())
        if question:
            return question
        last = first - 1
    return ""


def text_bytes(text: str, pairs: int = 0) -> int:
    """Bytes in memory of a text and `pairs` spans."""
    return sys.getsizeof(text) + pairs * PAIR_BYTES


class WriteOnceCache(Generic[T]):
    """Thread-safe LRU cache whose values `keep` does not replace. Values larger than `max_bytes` are not stored.

    Args:
        max_entries: maximum number of values.
        max_bytes: maximum bytes of all values.
        size_of: returns the bytes of a value.
    """

    def __init__(self, max_entries: int, max_bytes: int, size_of: Callable[[T], int]) -> None:
        self._held: LRUCache[Hashable, T] = LRUCache(max_bytes, max_entries)
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
            cached = self._held.get(key)
            if cached is not None:
                return cached
            self.replace(key, value)
            return value

    def replace(self, key: Hashable, value: T) -> None:
        """Store a value, replacing an existing one."""
        self._held.put(key, value, self._size_of(value) + _ENTRY_BYTES)
