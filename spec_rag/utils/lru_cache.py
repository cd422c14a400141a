"""LRU cache bounded by bytes and entries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from spec_rag.utils.forking import new_lock, renew_in_children

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """Mapping with LRU eviction beyond either bound. Thread-safe.

    Args:
        max_bytes: bound on the bytes of all values. A larger single value is not stored and evicts no other. Lowering
            the attribute evicts at once.
        max_entries: bound on the number of values; None is unbounded.

    Attributes:
        lock: reentrant lock, held during every call; hold it around several calls that must be atomic.
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
        """Bound on the bytes of all values."""
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, max_bytes: int) -> None:
        with self.lock:
            self._max_bytes = max_bytes
            self._make_room()

    @property
    def held_bytes(self) -> int:
        """Bytes of all values."""
        with self.lock:
            return self._held_bytes

    def get(self, key: K) -> V | None:
        """The value, now the most recently used; None if absent."""
        with self.lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def peek(self, key: K) -> V | None:
        """The value without changing its recency; None if absent."""
        with self.lock:
            return self._entries[key][0] if key in self._entries else None

    def put(self, key: K, value: V, size: int) -> None:
        """Store a value as the most recently used. The old value of the key is removed even if this one is too large.

        Args:
            key: the key.
            value: any value but None.
            size: bytes of the value.
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
        """Recount in a forked child: another thread may have been inside `put`."""
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
