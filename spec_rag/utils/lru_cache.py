"""A cache bounded by bytes, which forgets the least recently used first. It does not know what it holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from spec_rag.utils.forking import new_lock, renew_in_children

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """Values under keys; beyond either bound the least recently used go first. Safe for threads.

    Args:
        max_bytes: of all values together; one that is larger by itself is not held, and pushes no other out. Lowering
            the attribute frees at once what is beyond the new bound.
        max_entries: so many values at most; None bounds their bytes alone.

    Attributes:
        lock: reentrant, and taken by every call; take it around several calls that belong together.
    """

    def __init__(self, max_bytes: int, max_entries: int | None = None) -> None:
        self._max_bytes = max_bytes
        self.max_entries = max_entries
        self.lock = new_lock()
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._held_bytes = 0
        renew_in_children(self)

    @property
    def max_bytes(self) -> int:
        """The most bytes of all values together."""
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, given: int) -> None:
        with self.lock:
            self._max_bytes = given
            self._make_room()

    @property
    def held_bytes(self) -> int:
        """Bytes of all values together, as they were put."""
        with self.lock:
            return self._held_bytes

    def get(self, key: K) -> V | None:
        """The value, which is now the most recently used, or None."""
        with self.lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def peek(self, key: K) -> V | None:
        """The value, which is as recently used as before, or None."""
        with self.lock:
            return self._entries[key][0] if key in self._entries else None

    def put(self, key: K, value: V, size: int) -> None:
        """Hold a value as the most recently used; what was held under its key goes, also where this one is too large.

        Args:
            key: its key.
            value: anything but None.
            size: its bytes.
        """
        with self.lock:
            try:
                if key in self._entries:
                    self._held_bytes -= self._entries.pop(key)[1]
                if size > self._max_bytes:
                    return
                self._entries[key] = value, size
                self._held_bytes += size
                self._make_room()
            except BaseException:  # such as Ctrl-C between two of these steps
                self._count()
                self._make_room()
                raise

    def renew_in_child(self) -> None:
        """Count again in a forked child, since another thread may have been in the middle of a change."""
        self._count()

    def _make_room(self) -> None:
        while self._entries and self._is_over():
            _, (_, freed) = self._entries.popitem(last=False)
            self._held_bytes -= freed

    def _count(self) -> None:
        self._held_bytes = sum(size for _, size in self._entries.values())

    def _is_over(self) -> bool:
        too_many = self.max_entries is not None and len(self._entries) > self.max_entries
        return too_many or self._held_bytes > self._max_bytes

    def __contains__(self, key: object) -> bool:
        with self.lock:
            return key in self._entries

    def __len__(self) -> int:
        with self.lock:
            return len(self._entries)
