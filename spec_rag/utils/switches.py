"""Context managers whose effect is undone on every exit, including Ctrl-C between two of their steps.

A generator under `contextlib.contextmanager` cannot promise that: an exception that arrives before its `try`, or
between its `yield` and the block, leaves the effect in place.
"""

from __future__ import annotations

from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Switch(Generic[T]):
    """A context manager of two methods, `_on` and `_off`, for the duration of one block.

    `_off` undoes what `_on` did, all of it or only its first steps. It may be called more than once, and then does
    nothing. It runs when the block ends, when `_on` raises, once more when it was interrupted itself, and at the latest
    when the object is deleted.
    """

    _entered = False

    def _on(self) -> T:
        raise NotImplementedError

    def _off(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> T:
        self._entered = True
        try:
            return self._on()
        except BaseException:
            self._off()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._off()
            self._entered = False
        except BaseException:
            self._off()
            raise

    def __del__(self) -> None:
        if self._entered:
            self._off()
