"""The errors that users of spec-rag may want to catch. Each message names the argument, its value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpecRagError(Exception):
    """Base of the errors that spec-rag raises on purpose."""


class ConfigError(SpecRagError, ValueError):
    """A setting or an argument has a value that cannot work."""


class BudgetTooSmallError(ConfigError):
    """What must be kept of the documents does not fit the budget."""


class ModelNotFoundError(SpecRagError, OSError):
    """A model can neither be found locally nor fetched."""


class IncompatibleModelsError(SpecRagError, ValueError):
    """Draft and target cannot work together in the way that was asked for."""


class UnsupportedModelError(SpecRagError, NotImplementedError):
    """The model's attention does something that cannot be scored or pruned faithfully."""


class PromptTooLongError(SpecRagError, ValueError):
    """A prompt is longer than the model that has to read it can take."""


class UnreadableFileError(SpecRagError, ValueError):
    """A file exists but no text can be read from it."""


class FileNotWrittenError(SpecRagError, OSError):
    """A file cannot be written; what stood in its place is as before."""


class IndexNotWrittenError(FileNotWrittenError):
    """What an index was to be filled with cannot be stored."""


class OutOfMemoryError(SpecRagError, MemoryError):
    """A model ran out of memory; the request is lost, and the next is served."""


class NotFiniteError(SpecRagError, ArithmeticError):
    """A model computed numbers that are none (nan or inf), so that its answer would mean nothing."""


class MissingDependencyError(SpecRagError, ImportError):
    """An optional package is needed for what was asked."""


class UpstreamError(SpecRagError, OSError):
    """A server that should answer cannot be reached, refuses the request, or breaks off."""


class UnknownHandleError(SpecRagError, LookupError):
    """Nothing is remembered under a handle."""


class CancelledError(SpecRagError):
    """The work was cancelled by the caller before it was done."""


class ForkedError(SpecRagError, RuntimeError):
    """What a forked child waits for is done by a thread that only its parent has."""


def unknown_field(owner: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a field that does not exist, with the name that was probably meant."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    meant = f"did you mean {near[0]!r}? Its" if near else "its"
    return ConfigError(f"{owner} has no field {name!r}: {meant} fields are {', '.join(names)}.")
