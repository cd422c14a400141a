"""Rotary embeddings whose frequencies depend on the length of what is read: LongRoPE and dynamic NTK scaling.

Up to a number of tokens such a model uses one set of frequencies. Beyond it LongRoPE takes another set, and dynamic NTK
scaling a new one for every length. The longest row of a batch decides for all rows, and keys that were cached with one
set cannot be read with another. This module does not know prompts or caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

Side = Literal["below", "beyond", "across"]


@dataclass(frozen=True)
class RopeSwitch:
    """Where a model's frequencies change.

    Attributes:
        kind: "longrope" or "dynamic".
        tokens: sequences of more tokens have other frequencies.
    """

    kind: Literal["longrope", "dynamic"]
    tokens: int

    @classmethod
    def of(cls, config: Any) -> RopeSwitch | None:
        """The switch of a model with this config, or None where the frequencies never change."""
        own = config.get_text_config(decoder=True)
        given = getattr(own, "rope_parameters", None) or {}
        longest = getattr(own, "max_position_embeddings", None) or 0
        found = []
        for one in [given, *(value for value in given.values() if isinstance(value, dict))]:
            kind = one.get("rope_type")
            if kind == "longrope":
                original = getattr(own, "original_max_position_embeddings", None)
                found.append(cls("longrope", int(one.get("original_max_position_embeddings") or original or longest)))
            elif kind == "dynamic" and longest:
                found.append(cls("dynamic", int(longest)))
        return min(found, key=lambda one: one.tokens, default=None)

    def side(self, prompt_tokens: int, all_tokens: int) -> Side:
        """Whether a sequence keeps one set of frequencies: "below" or "beyond" the switch, or goes "across" it.

        Args:
            prompt_tokens: read at once.
            all_tokens: with what is written behind them.
        """
        if all_tokens <= self.tokens:
            return "below"
        # one token beyond, transformers still reads the cached keys of Phi-3 again
        return "beyond" if self.kind == "longrope" and prompt_tokens > self.tokens + 1 else "across"

    def reason(self) -> str:
        """Half a sentence on what changes where."""
        if self.kind == "longrope":
            return f"its LongRoPE frequencies are others beyond {self.tokens} tokens"
        return f"its dynamic NTK scaling has other frequencies for every length beyond {self.tokens} tokens"


def restore_frequencies(model: nn.Module) -> None:
    """Put back the frequencies that the model was loaded with, which a long sequence has replaced."""
    if RopeSwitch.of(model.config) is None:
        return
    for module in model.modules():
        for prefix in _changing(module):
            original = getattr(module, f"{prefix}original_inv_freq")
            current = getattr(module, f"{prefix}inv_freq")
            module.register_buffer(f"{prefix}inv_freq", original.to(current.device).clone(), persistent=False)
            for name in (f"{prefix}max_seq_len_cached", "max_seq_len_cached"):
                if hasattr(module, name):
                    setattr(module, name, module.original_max_seq_len)


def _changing(module: nn.Module) -> Iterator[str]:
    """The prefixes of a rotary embedding's frequencies: one, or one for each type of layer."""
    kinds = getattr(module, "rope_type", None)
    by_prefix = {f"{name}_": kind for name, kind in kinds.items()} if isinstance(kinds, dict) else {"": kinds}
    for prefix, kind in by_prefix.items():
        if kind in ("longrope", "dynamic") and hasattr(module, f"{prefix}original_inv_freq"):
            yield prefix
