"""The target's stage: prefill, pruned if requested, then transformers' generation from that cache."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteriaList

from spec_rag.errors import ConfigError
from spec_rag.generation.constrained import ConstrainedLogits
from spec_rag.generation.context_cache import check_one_side
from spec_rag.generation.prefill import pruned_cache
from spec_rag.generation.prompt_batch import Batch, PaddedPrompts, is_pruned
from spec_rag.generation.pruned_cache import PrunedCache
from spec_rag.generation.query_pruning import exceeds_capacity, prune_for_query
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import seeded
from spec_rag.generation.speculative import ProposedTokens, VerifiedDecoding, can_verify
from spec_rag.generation.stop_criteria import AnswerEnds, WrittenAnswer, is_cancelled
from spec_rag.generation.target_calls import generate_from
from spec_rag.generation.token_logits import AnswerPenalties, LogprobRecorder
from spec_rag.models.model_config import kv_bytes
from spec_rag.results import Answer, FinishReason, Timings, TokenLogprob


def decode(request: GenerationRequest, batch: Batch) -> list[Answer]:
    """Prefill the rows, after the request's context if it has one, and generate their answers.

    The caller holds the models' lock.

    Raises:
        ConfigError: the window leaves nothing to prune.
        PromptTooLongError: a row and its answer exceed the target's context.
    """
    prompts = _padded(request, batch)
    writer = _Writer(request, batch, prompts)
    started = time.perf_counter()
    cache = _prefilled(request, batch, prompts)
    pruning = _Pruning.of(cache)
    sequences = writer.write(cache)
    ended = time.perf_counter()
    first_token_at = writer.ends.first_token_at or ended
    timings = Timings(batch.draft_seconds, first_token_at - started, ended - first_token_at)
    return writer.answers(sequences, pruning, timings)


def _padded(request: GenerationRequest, batch: Batch) -> PaddedPrompts:
    """The rows after the context, if they and their answers fit the target's context."""
    longest = max(int(positions[-1]) + 1 for positions in batch.positions)
    request.pair.check_context(
        request.target,
        request.context_tokens + longest + request.sampling.max_new_tokens,
        "target",
        "compress the documents first, set SpecPCConfig, or lower max_new_tokens.",
    )
    prompts = PaddedPrompts.of(request.target, batch)
    return prompts if request.context is None else prompts.after_context(request.context.ids)


def _prefilled(request: GenerationRequest, batch: Batch, prompts: PaddedPrompts) -> PrunedCache | None:
    """The cache of a context, or the pruned cache of the prompts; None if transformers does a dense prefill."""
    target, speckv = request.target, request.speckv
    if request.context is not None:
        check_one_side(target, prompts.tokens + request.sampling.max_new_tokens)
        cache = request.context.start(target, prompts.padding)
        if exceeds_capacity(cache, speckv):
            prune_for_query(request, cache, batch.rows)
        return cache
    if speckv is None or not is_pruned(prompts.tokens, speckv):
        return None
    if prompts.tokens < speckv.window + 2:
        raise ConfigError(
            f"window_size={speckv.window} leaves nothing to prune of {prompts.tokens} tokens: lower window_size."
        )
    return pruned_cache(request, batch, prompts)


class _Writer:
    """Writes the answers of one batch.

    Args:
        request: the job.
        batch: its rows after the draft's stage.
        prompts: the same rows, padded, after the context.

    Attributes:
        ends: stops the rows and cuts them.
    """

    def __init__(self, request: GenerationRequest, batch: Batch, prompts: PaddedPrompts) -> None:
        self._request = request
        self._batch = batch
        self._prompts = prompts
        sampling = request.sampling
        self.ends = AnswerEnds(request, prompts.tokens, len(batch.rows))
        self._constraint = ConstrainedLogits.of(request, prompts.tokens, self.ends.ends)
        self._recorder = None if sampling.logprobs is None else LogprobRecorder(prompts.tokens, sampling.logprobs)
        self._proposed = ProposedTokens(batch.lookahead[0].tolist())

    def write(self, cache: PrunedCache | None) -> Tensor:
        """int64 [rows, prompt and new tokens]."""
        request, sampling = self._request, self._request.sampling
        if cache is not None and sampling.beams > 1:
            cache.batch_repeat_interleave(sampling.beams)
        options: dict[str, Any] = {
            **sampling.options,
            "eos_token_id": self.ends.ends or None,
            "streamer": request.streamer,
            "stopping_criteria": StoppingCriteriaList([self.ends]),
        }
        if cache is not None and request.speckv is not None and can_verify(request, self._batch, cache):
            options["custom_generate"] = VerifiedDecoding(cache, self._proposed, request.streamer)
        with seeded(sampling.seed, request.target):
            return generate_from(
                request.target, self._prompts, cache, sampling.max_new_tokens, self._processors(), **options
            )

    def _processors(self) -> list[LogitsProcessor]:
        """Penalties, the constraint, the recorder, in this order: the recorded probabilities include the others."""
        sampling = self._request.sampling
        processors: list[LogitsProcessor] = []
        if sampling.presence_penalty or sampling.frequency_penalty:
            processors.append(
                AnswerPenalties(self._prompts.tokens, sampling.presence_penalty, sampling.frequency_penalty)
            )
        return processors + [other for other in (self._constraint, self._recorder) if other is not None]

    def answers(self, sequences: Tensor, pruning: _Pruning, timings: Timings) -> list[Answer]:
        """One Answer per row."""
        beams = self._request.sampling.beams
        if self._constraint is not None and beams > 1:
            self._constraint.check_beams([row[self._prompts.tokens :] for row in sequences])
        steered = {row // beams for row in self._constraint.steered} if self._constraint is not None else set()
        logprobs = self._logprobs(sequences)
        padding = [0] * len(sequences) if self._request.context is not None else self._prompts.padding.tolist()
        answers = []
        for i, sequence in enumerate(sequences):
            written = self.ends.cut(i, sequence)
            reason: FinishReason = "length"
            if i in steered:
                pass  # the constraint had to close it before max_new_tokens
            elif written.has_ended:
                reason = "stop"
            elif is_cancelled(self._request.cancelled, i):
                reason = "cancelled"
            noted = None if logprobs is None else logprobs[i][: len(written.ids)]
            answer = self._answer(i, written, pruning.of_row(i, padding[i]))
            answers.append(replace(answer, finish_reason=reason, timings=timings, logprobs=noted))
        return answers

    def _logprobs(self, sequences: Tensor) -> list[list[TokenLogprob]] | None:
        tokenizer = self._request.pair.tokenizer
        if self._recorder is None:
            return None
        return self._recorder.rows(
            sequences, lambda token: str(tokenizer.decode([token])) if tokenizer is not None else ""
        )

    def _answer(self, row: int, written: WrittenAnswer, pruning: _Pruning) -> Answer:
        """One row's answer without what all rows share."""
        batch, request = self._batch, self._request
        selected, tokens = batch.selected[row], len(batch.rows[row])
        dense_bytes = 0 if pruning.layers else kv_bytes(request.target, tokens)
        return Answer(
            text=written.text,
            output_ids=written.ids,
            prompt_tokens=request.context_tokens + batch.prompt_tokens[row],
            target_prompt_tokens=tokens,
            completion_tokens=len(written.ids),
            kv_bytes_dense=pruning.dense_bytes or dense_bytes,
            kv_bytes_kept=pruning.kept_bytes or dense_bytes,
            selected_positions=None if selected is None else selected.tolist(),
            layer_positions=pruning.layers,
            lookahead_ids=batch.lookahead[row].tolist(),
            proposed_tokens=self._proposed.count,
            accepted_tokens=self._proposed.accepted,
        )


@dataclass(frozen=True)
class _Pruning:
    """What the prefill of a batch kept, before the answers extend the cache.

    Attributes:
        dense_bytes, kept_bytes: bytes of keys and values of all rows.
        layers: per layer int64 [rows, KV heads, kept] positions.
    """

    dense_bytes: int = 0
    kept_bytes: int = 0
    layers: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, cache: PrunedCache | None) -> _Pruning:
        if cache is None:
            return cls()
        layers = tuple(layer.positions for layer in cache.layers if layer.positions is not None)
        return cls(cache.dense_bytes, cache.kept_bytes, layers)

    def of_row(self, row: int, padding: int) -> _Pruning:
        """One row's share, with positions [KV heads, kept] counted from its own first token."""
        if not self.layers:
            return self
        rows = self.layers[0].shape[0]
        layers = tuple((layer[row] - padding).clamp(min=-1).cpu() for layer in self.layers)
        return _Pruning(self.dense_bytes // rows, self.kept_bytes // rows, layers)
