"""What must stay of documents whatever it scores, what comes along, and what must go: settings, checked once.

This module knows values and ranges; `compression.retention` applies them.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from spec_rag.errors import ConfigError
from spec_rag.text.patterns import PATTERNS
from spec_rag.utils.validation import check_choice, check_integer

Keep = str | re.Pattern[str] | Callable[[str], bool]
Order = Literal["given", "relevance"]


@dataclass(frozen=True)
class RetentionConfig:
    """Promises about the kept text that hold beside the score, all of them inside the budget.

    What `keep`, `keep_first`, `keep_last` and `document_min_tokens` hold is the same for every budget that has room for
    it; where one has not, that is an error and nothing is dropped in silence. A sentence that stands in several
    documents is held, and paid for, once: where it stands first.

    Args:
        keep: units that match one of these are held: "numbers" (in digits), "dates", "identifiers", "quotes", a regular
            expression that is searched in each unit, or a function from a unit's text to a bool.
        keep_first, keep_last: so many first and last units of each document are held.
        context_before, context_after: so many units before and after a kept one join it, nearest first, as far as
            they fit; they do not wait for better units elsewhere.
        threshold: units whose importance is below are dropped even where there is room; what is held stays, and so does
            context. Importance is in deviations from the average unit of the question's documents: 0 is
            average, 2 stands out.
        document_min_tokens: of each document, the best units are held until they have so many tokens, or all are.
        document_max_tokens: keep at most so many tokens of each document.
        order: of the documents that come out: as "given", or by "relevance", the best kept unit first. The latter lets
            the draft read also what fits.

    Raises:
        ConfigError: a value is out of range, or two of them contradict each other.
    """

    keep: tuple[Keep, ...] = ()
    keep_first: int = 0
    keep_last: int = 0
    context_before: int = 0
    context_after: int = 0
    threshold: float | None = None
    document_min_tokens: int = 0
    document_max_tokens: int | None = None
    order: Order = "given"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", _as_tuple(self.keep))
        for one in self.keep:
            _check_keep(one)
        for name in ("keep_first", "keep_last", "context_before", "context_after", "document_min_tokens"):
            check_integer(name, getattr(self, name), 0)
        check_integer("document_max_tokens", self.document_max_tokens, 1, optional=True)
        if self.document_max_tokens is not None and self.document_min_tokens > self.document_max_tokens:
            raise ConfigError(
                f"document_min_tokens={self.document_min_tokens} is above document_max_tokens="
                f"{self.document_max_tokens}: lower the one, or raise the other."
            )
        number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        if self.threshold is not None and not (number and math.isfinite(self.threshold)):
            raise ConfigError(f"threshold={self.threshold!r}: must be a finite number or None.")
        check_choice("order", self.order, get_args(Order))

    @property
    def held_by(self) -> str:
        """The settings that hold units whatever they score, as they were given."""
        names = [name for name in ("keep", "keep_first", "keep_last") if getattr(self, name)]
        return " and ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _as_tuple(given: object) -> tuple[Keep, ...]:
    if isinstance(given, str | re.Pattern) or callable(given):
        return (given,)
    if given is None or not isinstance(given, list | tuple | set | frozenset):
        raise ConfigError(
            f"keep={given!r:.80}: give a tuple of {', '.join(map(repr, PATTERNS))}, regular expressions or functions."
        )
    return tuple(given)


def _check_keep(one: object) -> None:
    if isinstance(one, re.Pattern):
        if not isinstance(one.pattern, str):
            raise ConfigError(f"keep={one.pattern!r}: the regular expression is of bytes, and documents are strings.")
        return
    if callable(one) or one in PATTERNS:
        return
    if not isinstance(one, str):
        raise ConfigError(f"keep={one!r:.80}: must be a name, a regular expression or a function from text to bool.")
    meant = difflib.get_close_matches(one, PATTERNS, n=1, cutoff=0.75) if one.isidentifier() else []
    if meant:
        raise ConfigError(f"keep={one!r}: did you mean {meant[0]!r}? For the word itself give re.compile({one!r}).")
    try:
        found = re.compile(one)
    except re.error as error:
        raise ConfigError(f"keep={one!r} is no regular expression: {error}.") from error
    if found.search("") is not None:
        raise ConfigError(f"keep={one!r} matches everything, an empty text too: say what a unit must contain.")
