"""Budgets of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from spec_rag.errors import ConfigError


def budgets_of(names: Sequence[str]) -> tuple[Fraction, ...]:
    """Parse budgets: "1/8" and "0.1" are shares of the tokens, "512" is a number of tokens.

    Raises:
        ConfigError: a name is neither.
    """
    budgets = []
    for name in names:
        try:
            budget = Fraction(name)
        except (ValueError, ZeroDivisionError):
            budget = Fraction(0)
        if budget <= 0 or (budget > 1 and budget.denominator > 1):
            raise ConfigError(f"budget {name!r}: give a share such as 1/8 or 0.1, or a number of tokens such as 512.")
        budgets.append(budget)
    return tuple(budgets)
