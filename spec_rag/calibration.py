"""Which layers of a draft to listen to.

The default draft's were measured; of an unknown draft the same part of its depth is taken. This module does not know
how attention is read.
"""

from __future__ import annotations

_FIRST, _LAST = 8 / 30, 20 / 30  # layers 8 to 19 of SmolLM2-135M's 30


def layer_range(layers: int) -> tuple[int, int]:
    """Of a draft of so many layers, the first one that counts and the one behind the last."""
    first = min(round(layers * _FIRST), layers - 1)
    return first, max(round(layers * _LAST), first + 1)
