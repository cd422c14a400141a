"""How much may be kept: a share of the tokens, or so many. This module does not know methods."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from spec_rag.errors import ConfigError

PARTS = (4, 8, 16)
BUDGETS = tuple(Fraction(1, part) for part in PARTS)


def budgets_of(names: Sequence[str]) -> tuple[Fraction, ...]:
    """Budgets as they are written: "1/8" and "0.1" are shares of the tokens, "512" is so many tokens.

    Raises:
        ConfigError: one is neither.
    """
    found = []
    for name in names:
        try:
            budget = Fraction(name)
        except (ValueError, ZeroDivisionError):
            budget = Fraction(0)
        if budget <= 0 or (budget > 1 and budget.denominator > 1):
            raise ConfigError(f"budget {name!r}: give a share such as 1/8 or 0.1, or a number of tokens such as 512.")
        found.append(budget)
    return tuple(found)


def budget_tokens(budget: Fraction, tokens: int) -> int:
    """Tokens of a budget, at least one: a share of `tokens`, or, above 1, the budget itself."""
    return max(int(budget * tokens), 1) if budget <= 1 else int(budget)
