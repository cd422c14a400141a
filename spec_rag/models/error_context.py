"""Out-of-memory and NaN errors inside a model, converted to errors that name the model and what to change."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_rag.errors import NotFiniteError, OutOfMemoryError, SpecRagError

# torch has an error type for accelerators only; CPU allocator, MPS and cuBLAS errors are known by their text
_FULL = re.compile(r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|bad_alloc|bad allocation", re.I)
_ASKED_FOR = re.compile(r"tried to allocate ([\d.]+ ?\w+)", re.I)


class _NotFinite(ArithmeticError):
    """A tensor contains NaN or infinity; `error_context` adds the model."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is an out-of-memory error of any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _FULL.search(str(error)) is not None


def check_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and infinity, at the cost of one sum.

    Args:
        values: floating-point tensor of any shape, whose finite values have a finite sum.
        what: name of the values, for the message.

    Raises:
        ArithmeticError: a value is not finite; `error_context` converts it to NotFiniteError.
    """
    if not bool(values.sum(dtype=torch.float32).isfinite()):
        raise _NotFinite(what)


class error_context:
    """Convert out-of-memory and NaN errors of a model, in this block, to errors that name it and what to change.

    The original error becomes the `__cause__`. Its traceback is kept as text in a note: its frames would keep caches
    and activations in memory.

    Args:
        role: "draft" or "target", the prefix of its options.
        name: name of the model.
        model: the model, or None while it is loaded.
        suggestions: returns ways to use less memory.

    Raises:
        OutOfMemoryError: memory ran out.
        NotFiniteError: `check_finite` found NaN or infinity.
    """

    def __init__(
        self, role: str, name: str, model: PreTrainedModel | None, suggestions: Callable[[], Sequence[str]]
    ) -> None:
        self._role = role
        self._name = name
        self._model = model
        self._suggestions = suggestions

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        """Convert the error, if any."""
        if error is None or isinstance(error, SpecRagError):
            return
        if isinstance(error, _NotFinite):
            converted: SpecRagError = NotFiniteError(_not_finite(self._role, self._name, self._model, str(error)))
        elif is_out_of_memory(error):
            suggestions = self._suggestions()
            converted = OutOfMemoryError(_out_of_memory(self._role, self._name, self._model, str(error), suggestions))
        else:
            return
        error.add_note("".join(["Where it was raised:\n", *traceback.format_tb(frames)]))
        error.__traceback__ = frames = None
        raise converted from error


def ways_of_loading(role: str, model: PreTrainedModel) -> list[str]:
    """Ways to load the model with less memory."""
    options, on_cpu = f"{role}_options", model.device.type == "cpu"
    ways = []
    if model.dtype == torch.float32:
        ways.append(f"{options}={{'dtype': 'bfloat16'}}")
    if not on_cpu:
        ways.append(f"{options}={{'device': 'cpu'}}")
    return [*ways, f"a smaller {role}"]


def _out_of_memory(role: str, name: str, model: PreTrainedModel | None, said: str, suggestions: Sequence[str]) -> str:
    asked_for = _ASKED_FOR.search(said)
    more = f" (it asked for {asked_for.group(1)} more)" if asked_for else ""
    where = "while it was loaded" if model is None else f"on {model.device}"
    return f"The {role} {name!r} ran out of memory {where}{more}. What takes less: {'; '.join(suggestions)}."


def _not_finite(role: str, name: str, model: PreTrainedModel | None, what: str) -> str:
    ways, how = [], ""
    if model is not None:
        attention, dtype = str(getattr(model.config, "_attn_implementation", "")), str(model.dtype)
        how = f" ({dtype.removeprefix('torch.')} on {model.device})"
        wider = {"torch.float16": ("bfloat16", "float32"), "torch.bfloat16": ("float32",)}.get(dtype, ())
        ways = [f"{{'dtype': {one!r}}}" for one in wider]
        ways += [] if attention.endswith("eager") else ["{'attn_implementation': 'eager'}"]
    load = f"Load it with {role}_options={' or '.join(ways)}; if that changes nothing," if ways else "Probably"
    return (
        f"The {role} {name!r}{how} computed {what} that are NaN or infinity, so its results would be meaningless. "
        f"{load} its weights are damaged: fetch them again."
    )
