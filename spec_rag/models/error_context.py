"""What goes wrong inside a model that runs: too little memory, and numbers that are none.

Both become an error that says which model it was and what to change. This module does not know what a model is run for:
whoever runs it names the ways out.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_rag.errors import NotFiniteError, OutOfMemoryError, SpecRagError

# torch has a type of its own for accelerators alone; a CPU's allocator, MPS and cuBLAS say it in words
_FULL = re.compile(r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|bad_alloc|bad allocation", re.I)
_ASKED_FOR = re.compile(r"tried to allocate ([\d.]+ ?\w+)", re.I)


class _NotFinite(ArithmeticError):
    """Nan or inf stands where a number is needed; `error_context` says where that was."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _FULL.search(str(error)) is not None


def check_finite(values: Tensor, what: str) -> None:
    """Refuse nan and inf: one sum, whatever the shape.

    Args:
        values: of any shape and floating type, whose finite values have a finite sum.
        what: they are.

    Raises:
        ArithmeticError: there are some; `error_context` makes a NotFiniteError of it.
    """
    if not bool(values.sum(dtype=torch.float32).isfinite()):
        raise _NotFinite(what)


class error_context:
    """Turn what goes wrong inside a model, in this block, into an error that names it and what to change.

    What the failed work held is let go of at once, also where somebody keeps the error: the original, its `__cause__`,
    has the lines of its traceback as a note, and no frames, which would hold caches and activations.

    Args:
        role: "draft" or "target"; its options are named after it.
        name: of the model.
        model: it, or None while it is being loaded.
        suggestions: called for what would take less memory.

    Raises:
        OutOfMemoryError: memory ran out.
        NotFiniteError: `check_finite` found nan or inf.
    """

    def __init__(
        self, role: str, name: str, model: PreTrainedModel | None, suggestions: Callable[[], Sequence[str]]
    ) -> None:
        self._role = role
        self._name = name
        self._model = model
        self._ways_out = suggestions

    def __enter__(self) -> None:
        """Begin the work."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        """Look at how it ended."""
        if error is None or isinstance(error, SpecRagError):
            return
        if isinstance(error, _NotFinite):
            told: SpecRagError = NotFiniteError(_not_finite(self._role, self._name, self._model, str(error)))
        elif is_out_of_memory(error):
            suggestions = self._ways_out()
            told = OutOfMemoryError(_out_of_memory(self._role, self._name, self._model, str(error), suggestions))
        else:
            return
        error.add_note("".join(["Where it was raised:\n", *traceback.format_tb(frames)]))
        error.__traceback__ = frames = None
        raise told from error


def ways_of_loading(role: str, model: PreTrainedModel) -> list[str]:
    """How the model could be loaded so that it takes less memory."""
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
        f"The {role} {name!r}{how} computed {what} that are no numbers (nan or inf), and what follows from them would "
        f"mean nothing. {load} its weights are damaged: fetch them again."
    )
