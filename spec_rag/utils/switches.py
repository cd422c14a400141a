"""Context managers whose effect is undone on every exit, including Ctrl-C between two of their steps.

A generator under `contextlib.contextmanager` cannot promise that: an exception that arrives before its `try`, or
between its `yield` and the block, leaves the effect in place.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Switch(Generic[T]):
    """A context manager of two methods, `_on` and `_off`, for the duration of one block.

    `_off` undoes `_on`, even if `_on` was interrupted. It is idempotent. It is called when the block ends, when `_on`
    raises, again if it was interrupted itself, and at the latest when the object is deleted.
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


@dataclass(eq=False)
class _Entry:
    """A value, whether its block is active, and the entry of the enclosing block."""

    value: Any
    outer: _Entry | None
    is_on: bool = True


class Scoped(Generic[T]):
    """A value per thread and task that is set for the duration of a block.

    Unlike a plain ContextVar it is reset even if the block is interrupted before its token is stored.

    Args:
        name: name of the variable.
    """

    def __init__(self, name: str) -> None:
        self._variable: ContextVar[_Entry | None] = ContextVar(name, default=None)

    def get(self) -> T | None:
        """The value of the innermost block, or None."""
        entry = self._variable.get()
        while entry is not None and not entry.is_on:
            entry = entry.outer
        return None if entry is None else entry.value

    def set(self, value: T) -> Switch[None]:
        """Set the value inside the block."""
        return _Setting(self._variable, value)


class _Setting(Switch[None]):
    """Sets a variable, and resets it."""

    def __init__(self, variable: ContextVar[_Entry | None], value: Any) -> None:
        self._variable = variable
        self._entry = _Entry(value, None, is_on=False)
        self._token: Token[_Entry | None] | None = None

    def _on(self) -> None:
        self._entry.outer = self._variable.get()
        self._entry.is_on = True
        self._token = self._variable.set(self._entry)

    def _off(self) -> None:
        self._entry.is_on = False
        token, self._token = self._token, None
        if token is not None:
            with suppress(ValueError, RuntimeError):  # deleted in another thread or task
                self._variable.reset(token)
