"""What may go wrong in the models of a request, and what a caller of `generate` can change about it.

This module does not know how either model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import LogitsProcessor

from spec_rag.generation.sampling import SamplingConfig
from spec_rag.models.error_context import check_finite, error_context, ways_of_loading
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig

_LONG_PROMPT = 512  # tokens, from which on reading in chunks and keeping less make a difference


class FiniteLogits(LogitsProcessor):  # type: ignore[misc]
    """Refuses nan and inf before a token is chosen by them."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The logits [rows, vocabulary] as they are; those that are ruled out may be -inf."""
        check_finite(scores.amax(), "logits")
        return scores


@dataclass(frozen=True)
class Faults:
    """What a request asked for, as far as it decides how much memory its models take.

    Attributes:
        pair: the models.
        rows: int64 [tokens] each, the prompts.
        specpc, speckv: what is dropped of prompts and caches.
        sampling: how answers are written, or None where none is.
        context_tokens: of a context that was read before; 0 where there is none.
    """

    pair: ModelPair
    rows: Sequence[Tensor]
    specpc: SpecPCConfig | None = None
    speckv: SpecKVConfig | None = None
    sampling: SamplingConfig | None = None
    context_tokens: int = 0

    def of_draft(self) -> error_context:
        """Explains what goes wrong while the draft reads."""
        return error_context("draft", self.pair.name_of("draft") or "", self.pair.draft, self._ways_of_draft)

    def of_target(self) -> error_context:
        """Explains what goes wrong while the target reads and writes."""
        return error_context("target", self.pair.name_of("target") or "", self.pair.target, self._ways_of_target)

    @property
    def _longest(self) -> int:
        return max(len(row) for row in self.rows)

    def _ways_of_draft(self) -> list[str]:
        ways = self._ways_of_both()
        if self.specpc is None and self.speckv is not None:
            ways.append("SpecKVConfig(lookahead='target'), which leaves the draft out")
        return [*ways, *ways_of_loading("draft", self.pair.require_draft("SpecKV"))]

    def _ways_of_target(self) -> list[str]:
        ways = self._ways_of_both()
        whole = self._longest + self.context_tokens
        if self.speckv is None and whole > _LONG_PROMPT:
            ways.append(f"speckv=SpecKVConfig(max_capacity_prompt={_LONG_PROMPT})")
        elif self.speckv is not None and self.speckv.max_capacity_prompt is not None:
            ways.append(f"a max_capacity_prompt of speckv below {self.speckv.max_capacity_prompt}")
        if self.specpc is not None:
            ways.append(f"a max_capacity_prompt of specpc below {self.specpc.max_capacity_prompt}")
        if self.context_tokens:
            ways.append("a ContextCache that was read with a smaller keep")
        if self.sampling is not None:
            if self.sampling.beams > 1:
                ways.append(f"num_beams below {self.sampling.beams}")
            ways.append(f"max_new_tokens below {self.sampling.max_new_tokens}")
        return [*ways, *ways_of_loading("target", self.pair.require_target())]

    def _ways_of_both(self) -> list[str]:
        ways = []
        chunk = None if self.sampling is None else self.sampling.prefill_chunk_size
        if chunk is not None and self._longest > chunk:
            ways.append(f"a prefill_chunk_size below {chunk}")
        elif self.sampling is not None and chunk is None and self._longest > _LONG_PROMPT:
            ways.append(f"prefill_chunk_size={_LONG_PROMPT}")
        if len(self.rows) > 1:
            ways.append(f"fewer prompts at once than {len(self.rows)}")
        return [*ways, f"a shorter prompt than {self._longest} tokens (compress() shortens documents)"]
