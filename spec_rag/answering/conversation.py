"""Compression inside a growing conversation: what was shortened once stays as it is, byte for byte.

A text is shortened for the question that was in force when it came, so a later question does not change what a model
has read already, and a server's prefix cache keeps hitting. This module does not know messages of any framework, nor
models.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

NOTHING_KEPT = "(Nothing in this result bears on the question.)"

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


class Frozen(Generic[T]):
    """What has been made of texts, by all that it depends on; the least recently used goes first. Safe for threads.

    Args:
        most: so many are remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """What is remembered, or None."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def keep(self, key: Hashable, value: T) -> T:
        """Remember a value, and return what is remembered: the first that came stays."""
        with self._lock:
            kept = self._held.setdefault(key, value)
            self._held.move_to_end(key)
            while len(self._held) > self._most:
                self._held.popitem(last=False)
            return kept

    def made(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is remembered, or what `make` returns, which is then remembered."""
        found = self.get(key)
        return self.keep(key, make()) if found is None else found
