"""Compression inside a growing conversation: what was shortened once stays as it is, byte for byte.

A text is shortened for the question that was in force when it came, so a later question does not change what a model
has read already, and a server's prefix cache keeps hitting. This module does not know messages of any framework, nor
models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from spec_rag.utils.lru_cache import LRUCache

NOTHING_KEPT = "(Nothing in this result bears on the question.)"
PAIR_BYTES = 128  # of two integers in a list, such as a span
_ENTRY_BYTES = 512  # of a key, the address of something, and its place

T = TypeVar("T")
Turn = tuple[str, str]
"""Who speaks ("user" is who asks), and the text."""


def question_at(turns: Sequence[Turn], place: int) -> str:
    """The question in force at a turn: the text of the run of user turns around it, or of the last run before it.

    Args:
        turns: the conversation; blank texts ask nothing.
        place: index of a turn.

    Returns:
        "" where nobody has asked anything until then.
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
    """Bytes that a text and so many spans of it take in memory."""
    return sys.getsizeof(text) + pairs * PAIR_BYTES


class WriteOnceCache(Generic[T]):
    """What has been made of texts, by the address of all that it depends on. Safe for threads.

    Beyond either bound the least recently used goes first; what is larger than `max_bytes` is not remembered.

    Args:
        most: so many are remembered.
        max_bytes: of those that are remembered.
        size_of: bytes of one.
    """

    def __init__(self, most: int, max_bytes: int, size_of: Callable[[T], int]) -> None:
        self._held: LRUCache[Hashable, T] = LRUCache(max_bytes, most)
        self._size_of = size_of

    @property
    def held_bytes(self) -> int:
        """Bytes of what is remembered."""
        return self._held.held_bytes

    def get(self, key: Hashable) -> T | None:
        """What is remembered, or None."""
        return self._held.get(key)

    def keep(self, key: Hashable, value: T) -> T:
        """Remember a value, and return what is remembered: the first that came stays."""
        with self._held.lock:
            found = self._held.get(key)
            if found is not None:
                return found
            self.replace(key, value)
            return value

    def replace(self, key: Hashable, value: T) -> None:
        """Remember a value in place of what is remembered, if anything is."""
        self._held.put(key, value, self._size_of(value) + _ENTRY_BYTES)
