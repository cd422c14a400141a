"""State that belongs to one loaded object, such as the lock, the batcher and the fingerprints of a model.

It is stored on the object, so it lives exactly as long as the object. It is neither copied nor pickled with it.
"""

from __future__ import annotations

import weakref
from typing import Any, TypeVar, cast

from spec_rag.utils.forking import new_lock

_ATTRIBUTE = "_spec_rag_state"
_creation_lock = new_lock()

T = TypeVar("T")


def state_of(owner: object, kind: type[T]) -> T:
    """Return the one instance of `kind` that belongs to an object; the first call creates it.

    Thread-safe. Copies of the object, shallow or deep, and unpickled ones have state of their own.

    Args:
        owner: a model, a tokenizer, or any other object with a `__dict__` that can be weakly referenced.
        kind: a class that can be created without arguments.

    Raises:
        TypeError: `owner` has no `__dict__` or cannot be weakly referenced.
    """
    instance = _instances(owner).get(kind)
    if instance is None:
        with _creation_lock:
            states = _instances(owner)
            if kind not in states:
                states[kind] = kind()
                vars(owner)[_ATTRIBUTE] = states  # not setattr: models and tokenizers override it
            instance = states[kind]
    return cast(T, instance)


class _States(dict[type, Any]):
    """Instances by class, valid for one owner: a shallow copy of the owner carries the same attribute."""

    def __init__(self, owner: object) -> None:
        super().__init__()
        self.owner = weakref.ref(owner)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ()  # a deep copy or a pickle of the owner holds an empty dict, loadable without this package


def _instances(owner: object) -> _States:
    states = vars(owner).get(_ATTRIBUTE)
    return states if isinstance(states, _States) and states.owner() is owner else _States(owner)
