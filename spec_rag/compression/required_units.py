"""Which units are held whatever they score: what `keep` matches, first and last ones, and each document's floor.

What is held is the same for every budget. This module knows texts, spans and numbers; what else is kept is selected
elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spec_rag.errors import BudgetTooSmallError, ConfigError
from spec_rag.options.compression import CompressionConfig, Keep
from spec_rag.results import Reason
from spec_rag.text.patterns import PATTERNS, named_spans
from spec_rag.text.units import Span, touched


def protected(texts: Sequence[str], units: Sequence[Sequence[Span]], config: CompressionConfig) -> dict[int, Reason]:
    """Units that `keep`, `keep_first` and `keep_last` hold, by their number among all units, and why.

    Args:
        texts: of the documents.
        units: per document, spans of its units.

    Raises:
        ConfigError: a function of `keep` returns something else than a bool.
    """
    found: dict[int, Reason] = {}
    first = 0
    for text, own in zip(texts, units, strict=True):
        matching = [False] * len(own)
        for one in config.keep:
            matching = [a or b for a, b in zip(matching, _matches(text, own, one), strict=True)]
        for i, is_match in enumerate(matching):
            if is_match:
                found[first + i] = "keep"
            elif i < config.keep_first:
                found[first + i] = "first"
            elif i >= len(own) - config.keep_last:
                found[first + i] = "last"
        first += len(own)
    return found


def floors(
    documents: Sequence[Sequence[int]],
    order: Sequence[int],
    held: Mapping[int, Reason],
    config: CompressionConfig,
    tokens_of: Callable[[int, Sequence[int]], int],
) -> dict[int, Reason]:
    """The best units of each document that are still missing to `document_min_tokens`.

    Args:
        documents: per document, its units' numbers.
        order: units that may be taken, best first.
        held: units that are held already.
        tokens_of: tokens of a document of which these units are left.
    """
    found: dict[int, Reason] = {}
    if not config.document_min_tokens:
        return found
    rank = {unit: i for i, unit in enumerate(order)}
    for d, own in enumerate(documents):
        taken = [unit for unit in own if unit in held]
        for unit in sorted((unit for unit in own if unit in rank and unit not in held), key=rank.__getitem__):
            if taken and tokens_of(d, taken) >= config.document_min_tokens:
                break
            longer = sorted([*taken, unit])
            if config.document_max_tokens is None or tokens_of(d, longer) <= config.document_max_tokens:
                taken = longer
                found[unit] = "floor"
    return found


def check_fits(needed: Sequence[int], names: Sequence[str], config: CompressionConfig, budget: int, what: str) -> None:
    """Refuse a budget, or a cap per document, without room for what is held.

    Args:
        needed: tokens that are held of each document.
        names: what the documents are called.
        what: the settings that hold them.

    Raises:
        BudgetTooSmallError: with the settings, the tokens needed and those allowed.
    """
    cap = config.document_max_tokens
    for tokens, name in zip(needed, names, strict=True):
        if cap is not None and tokens > cap:
            raise BudgetTooSmallError(
                f"{what} needs {tokens} tokens of {name}, and document_max_tokens={cap} allows {cap}: raise "
                "document_max_tokens, or hold less."
            )
    if sum(needed) > budget:
        raise BudgetTooSmallError(
            f"{what} needs {sum(needed)} tokens of {len(needed)} documents, and the budget allows {budget}: raise "
            "max_tokens or ratio, or hold less."
        )


def neighbours(unit: int, own: range, before: int, after: int) -> list[list[int]]:
    """The units before and after one in its document, each side nearest first.

    Args:
        own: the units of its document.
        before, after: how many, at most.
    """
    return [
        list(range(unit - 1, max(unit - 1 - before, own.start - 1), -1)),
        list(range(unit + 1, min(unit + 1 + after, own.stop))),
    ]


def _matches(text: str, units: Sequence[Span], keep: Keep) -> list[bool]:
    if isinstance(keep, str) and keep in PATTERNS:  # may reach over several units, as a quotation does
        return touched(units, named_spans(text, keep))
    if isinstance(keep, str | re.Pattern):
        pattern = re.compile(keep)
        return [pattern.search(text[start:end]) is not None for start, end in units]
    return [_said(keep, keep(text[start:end])) for start, end in units]


def _said(function: Callable[[str], bool], answer: Any) -> bool:
    if isinstance(answer, bool) or type(answer).__name__ in ("bool_", "bool"):
        return bool(answer)
    name = getattr(function, "__name__", type(function).__name__)
    raise ConfigError(f"keep={name} returned {answer!r:.80}: it must return True or False for a unit's text.")
