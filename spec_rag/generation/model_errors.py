"""Errors of the models of a request, with suggestions for the caller of `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import LogitsProcessor

from spec_rag.generation.request import GenerationRequest
from spec_rag.models.error_context import check_finite, error_context, ways_of_loading

_LONG_PROMPT = 512  # tokens; for shorter prompts, chunks and pruning save little memory


class FiniteLogits(LogitsProcessor):  # type: ignore[misc]
    """Refuses NaN and infinity before a token is chosen."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The logits [rows, vocabulary] unchanged; excluded tokens may have -inf."""
        check_finite(scores.amax(), "logits")
        return scores


@dataclass(frozen=True)
class ModelErrors:
    """Contexts that convert errors of a request's models.

    Attributes:
        request: the job.
        rows: int64 [tokens] each, the prompts.
        is_generating: whether an answer is written, so that options of writing are suggested.
    """

    request: GenerationRequest
    rows: Sequence[Tensor]
    is_generating: bool = True

    def of_draft(self) -> error_context:
        """Converts errors while the draft runs."""
        pair = self.request.pair
        return error_context("draft", pair.name_of("draft") or "", pair.draft, self._draft_suggestions)

    def of_target(self) -> error_context:
        """Converts errors while the target runs."""
        pair = self.request.pair
        return error_context("target", pair.name_of("target") or "", pair.target, self._target_suggestions)

    def _draft_suggestions(self) -> list[str]:
        request, suggestions = self.request, self._common_suggestions()
        if request.specpc is None and request.speckv is not None:
            suggestions.append("SpecKVConfig(lookahead='target'), which leaves the draft out")
        return [*suggestions, *ways_of_loading("draft", request.pair.require_draft("SpecKV"))]

    def _target_suggestions(self) -> list[str]:
        request, suggestions = self.request, self._common_suggestions()
        specpc, speckv, sampling = request.specpc, request.speckv, request.sampling
        if speckv is None and self._longest + request.context_tokens > _LONG_PROMPT:
            suggestions.append(f"speckv=SpecKVConfig(max_capacity_prompt={_LONG_PROMPT})")
        elif speckv is not None and speckv.max_capacity_prompt is not None:
            suggestions.append(f"a max_capacity_prompt of speckv below {speckv.max_capacity_prompt}")
        if specpc is not None:
            suggestions.append(f"a max_capacity_prompt of specpc below {specpc.max_capacity_prompt}")
        if request.context is not None:
            suggestions.append("a ContextCache that was read with a smaller keep")
        if self.is_generating:
            if sampling.beams > 1:
                suggestions.append(f"num_beams below {sampling.beams}")
            suggestions.append(f"max_new_tokens below {sampling.max_new_tokens}")
        return [*suggestions, *ways_of_loading("target", request.target)]

    def _common_suggestions(self) -> list[str]:
        suggestions = []
        chunk = self.request.sampling.prefill_chunk_size
        if chunk is not None and self._longest > chunk:
            suggestions.append(f"a prefill_chunk_size below {chunk}")
        elif self.is_generating and chunk is None and self._longest > _LONG_PROMPT:
            suggestions.append(f"prefill_chunk_size={_LONG_PROMPT}")
        if len(self.rows) > 1:
            suggestions.append(f"fewer prompts at once than {len(self.rows)}")
        return [*suggestions, f"a shorter prompt than {self._longest} tokens (compress() shortens documents)"]

    @property
    def _longest(self) -> int:
        return max(len(row) for row in self.rows)
