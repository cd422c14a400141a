"""A cache bounded by bytes: what it holds, and in which order it forgets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import properties  # noqa: F401  # how often a property is tried
from hypothesis import given
from hypothesis import strategies as st

from spec_rag.utils.lru_cache import LRUCache

KEYS = "abcdef"
SIZES = st.integers(0, 12)
CALLS = st.lists(st.tuples(st.sampled_from(["get", "peek", "put"]), st.sampled_from(KEYS), SIZES), max_size=40)
MAX_BYTES, MAX_ENTRIES = st.integers(0, 30), st.none() | st.integers(0, 5)


class Model:
    """The same as a list, of which the least recently used is the first."""

    def __init__(self, max_bytes: int, max_entries: int | None) -> None:
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.held: list[tuple[str, int, int]] = []

    def find(self, key: str) -> int | None:
        return next((value for own, value, _ in self.held if own == key), None)

    def get(self, key: str) -> int | None:
        self.held.sort(key=lambda one: one[0] == key)
        return self.find(key)

    def put(self, key: str, value: int, size: int) -> None:
        self.held = [one for one in self.held if one[0] != key]
        if size <= self.max_bytes:
            self.held.append((key, value, size))
        if self.max_entries is not None:
            self.held = self.held[max(len(self.held) - self.max_entries, 0) :]
        while self.size() > self.max_bytes:
            del self.held[0]

    def size(self) -> int:
        return sum(size for _, _, size in self.held)


def assert_same(cache: LRUCache[str, int], model: Model) -> None:
    assert {key: cache.peek(key) for key in KEYS} == {key: model.find(key) for key in KEYS}
    assert [key in cache for key in KEYS] == [model.find(key) is not None for key in KEYS]
    assert (len(cache), cache.held_bytes) == (len(model.held), model.size())


@given(MAX_BYTES, MAX_ENTRIES, CALLS)
def test_it_holds_and_forgets_what_a_list_in_order_of_use_does(
    max_bytes: int, max_entries: int | None, calls: list[tuple[str, str, int]]
) -> None:
    cache: LRUCache[str, int] = LRUCache(max_bytes, max_entries)
    model = Model(max_bytes, max_entries)
    for value, (call, key, size) in enumerate(calls):
        if call == "put":
            cache.put(key, value, size)
            model.put(key, value, size)
        elif call == "get":
            assert cache.get(key) == model.get(key)
        else:
            assert cache.peek(key) == model.find(key)
        assert_same(cache, model)
    for size in range(max_bytes + 1):  # what is left goes one after another
        cache.put("larger", -1, size)
        model.put("larger", -1, size)
        assert_same(cache, model)


def test_what_is_used_stays_longest_and_a_peek_is_no_use() -> None:
    cache: LRUCache[str, str] = LRUCache(max_bytes=30)
    for key in "abc":
        cache.put(key, key.upper(), 10)
    assert cache.get("a") == "A"
    assert cache.peek("b") == "B"
    cache.put("d", "D", 10)
    assert [cache.peek(key) for key in "abcd"] == ["A", None, "C", "D"]
    cache.put("c", "again", 10)
    cache.put("e", "E", 20)
    assert [cache.get(key) for key in "abcde"] == [None, None, "again", None, "E"]


def test_what_is_too_large_pushes_nothing_out_but_what_it_replaces() -> None:
    cache: LRUCache[str, str] = LRUCache(max_bytes=30)
    cache.put("a", "A", 10)
    cache.put("b", "B", 20)
    cache.put("c", "C", 31)
    assert [cache.peek(key) for key in "abc"] == ["A", "B", None]
    cache.put("a", "larger", 31)
    assert ("a" in cache, len(cache), cache.held_bytes) == (False, 1, 20)
    cache.put("c", "C", 30)
    assert [cache.peek(key) for key in "abc"] == [None, None, "C"]


def test_a_changed_bound_holds_from_the_next_value_on() -> None:
    cache: LRUCache[int, int] = LRUCache(max_bytes=30)
    for key in range(3):
        cache.put(key, key, 10)
    cache.max_bytes = 10
    cache.put(3, 3, 10)
    assert (len(cache), cache.peek(3)) == (1, 3)


def test_many_threads_keep_the_bounds_and_the_count_of_bytes() -> None:
    cache: LRUCache[int, int] = LRUCache(max_bytes=500, max_entries=40)

    def work(seed: int) -> None:
        for step in range(500):
            key = (seed * 31 + step * 7) % 90
            cache.put(key, key, key % 23)
            assert cache.get(key) in (key, None)
            assert cache.held_bytes <= 500

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    held = [key for key in range(90) if key in cache]
    assert 0 < len(cache) == len(held) <= 40
    assert cache.held_bytes == sum(key % 23 for key in held)


def test_who_has_the_lock_makes_a_value_once() -> None:
    cache: LRUCache[int, int] = LRUCache(max_bytes=10**6)
    made: list[int] = []

    def work(_: int) -> None:
        for key in range(200):
            with cache.lock:
                if cache.get(key) is None:
                    made.append(key)
                    cache.put(key, key, 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert made == list(range(200))


def test_lowering_the_bound_forgets_the_least_recently_used_at_once() -> None:
    cache: LRUCache[str, int] = LRUCache(30)
    for value, key in enumerate("abc"):
        cache.put(key, value, 10)
    cache.get("a")
    cache.max_bytes = 20
    assert (cache.max_bytes, cache.held_bytes, "b" in cache, "a" in cache, "c" in cache) == (20, 20, False, True, True)
    cache.max_bytes = 0
    assert (len(cache), cache.held_bytes) == (0, 0)
