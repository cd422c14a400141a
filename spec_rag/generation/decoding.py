"""The target's stage: a prefill, pruned where asked, then transformers' own generation from that cache.

This module does not know where the prompt or the look-ahead came from.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from spec_rag.attention.capture import base_attention, capture
from spec_rag.errors import ConfigError
from spec_rag.generation.constrained import constrained_logits
from spec_rag.generation.context_cache import ContextCache, check_one_side
from spec_rag.generation.draft_pass import before_end
from spec_rag.generation.end_tokens import answer_ends, end_token_ids
from spec_rag.generation.model_errors import FiniteLogits
from spec_rag.generation.prefill import prefill
from spec_rag.generation.prompt_batch import Batch, is_pruned
from spec_rag.generation.prompt_lookup import observing_copies
from spec_rag.generation.pruned_cache import DecodeMasks, PrunedCache
from spec_rag.generation.query_pruning import chooses_again, prune_for_query
from spec_rag.generation.sampling import GREEDY, SamplingConfig, pad_token_id, seeded
from spec_rag.generation.speculative import Guesses, VerifiedDecoding, can_verify
from spec_rag.generation.stop_criteria import CancelCriterion, Cancelled, RowEnds, StopStrings, is_cancelled
from spec_rag.generation.token_logits import AnswerPenalties, LogprobRecorder
from spec_rag.models.model_config import kv_bytes
from spec_rag.models.model_pair import ModelPair
from spec_rag.models.rope import RopeSwitch, restore_frequencies
from spec_rag.options.compression import SpecKVConfig
from spec_rag.results import Answer, FinishReason, Timings
from spec_rag.text.answer_text import AnswerText, answer_text
from spec_rag.text.tokenization import left_pad, right_pad

logger = logging.getLogger(__name__)

_OWN_LOOKAHEAD_TOKENS = 8


def decode(
    pair: ModelPair,
    batch: Batch,
    speckv: SpecKVConfig | None,
    sampling: SamplingConfig,
    streamer: BaseStreamer | None = None,
    cancelled: Cancelled = None,
    backend: str | None = None,
    context: ContextCache | None = None,
) -> list[Answer]:
    """Prefill the rows, behind a context where one is given, and generate their answers; the caller holds the lock.

    Raises:
        ConfigError: the window leaves nothing to prune.
        PromptTooLongError: a row and its answer are beyond the target's context.
    """
    target = pair.require_target()
    pair.check_context(
        target,
        (context.tokens if context else 0)
        + max(int(positions[-1]) + 1 for positions in batch.positions)
        + sampling.max_new_tokens,
        "target",
        "compress the documents first, set SpecPCConfig, or lower max_new_tokens.",
    )
    prompts = PaddedPrompts.of(target, batch)
    if context is not None:
        prompts = prompts.behind(context.ids)
    ends = answer_ends(pair, sampling)
    held = constrained_logits(pair, sampling, prompts.tokens, ends)
    started = time.perf_counter()
    cache = None
    if context is not None:
        check_one_side(target, prompts.tokens + sampling.max_new_tokens)
        cache = context.start(target, (prompts.mask == 0).sum(dim=1))
        if chooses_again(cache, speckv):
            assert speckv is not None
            prune_for_query(target, cache, context.ids, batch.rows, speckv, backend)
    elif is_pruned(prompts.tokens, speckv):
        assert speckv is not None
        if prompts.tokens < speckv.window + 2:
            raise ConfigError(
                f"window_size={speckv.window} leaves nothing to prune of {prompts.tokens} tokens: lower window_size."
            )
        cache = pruned_cache(target, batch, prompts, speckv, backend, ends, sampling.max_new_tokens)
    kept = _Kept.of(cache)
    if cache is not None and sampling.beams > 1:
        cache.batch_repeat_interleave(sampling.beams)
    criterion = CancelCriterion(cancelled)
    criteria: list[StoppingCriteria] = [criterion]
    if sampling.stop:
        tokenizer = pair.require_tokenizer()
        criteria.append(StopStrings(prompts.tokens, lambda: AnswerText(tokenizer, sampling.stop, ends)))
    row_ends = RowEnds(criteria, prompts.tokens, len(batch.rows))
    options = {**sampling.options, "eos_token_id": ends or None}
    options |= {"streamer": streamer, "stopping_criteria": StoppingCriteriaList([row_ends])}
    recorder = None if sampling.logprobs is None else LogprobRecorder(prompts.tokens, sampling.logprobs)
    options["processors"] = _processors(sampling, prompts.tokens, held, recorder)
    guesses = Guesses(batch.lookahead[0].tolist())
    if cache is not None and speckv is not None and can_verify(batch, cache, speckv, sampling):
        options["custom_generate"] = VerifiedDecoding(cache, guesses, streamer)
    with seeded(sampling.seed, target):
        sequences = generate_from(target, prompts, cache, sampling.max_new_tokens, **options)
    ended = time.perf_counter()
    first = criterion.first_token_at or ended
    timings = Timings(batch.draft_seconds, first - started, ended - first)
    padding = [0] * len(batch.rows) if context is not None else (prompts.mask == 0).sum(dim=1).tolist()
    if sampling.beams == 1:
        written = [row_ends.answer(i, row) for i, row in enumerate(sequences)]
    else:
        written = [row[prompts.tokens :] for row in sequences]
        if held is not None:
            held.check_beams(written)
    answers = [
        _answer(
            pair,
            batch,
            i,
            written[i],
            sampling,
            kept.row(i, padding[i]),
            timings,
            is_cancelled(cancelled, i),
            (guesses.asked, guesses.right),
            ends,
        )
        for i in range(len(batch.rows))
    ]
    if recorder is not None:
        tokenizer = pair.tokenizer
        noted = recorder.rows(sequences, lambda token: str(tokenizer.decode([token])) if tokenizer is not None else "")
        answers = [replace(one, logprobs=noted[i][: len(one.output_ids)]) for i, one in enumerate(answers)]
    if context is not None:
        answers = [replace(answer, prompt_tokens=context.tokens + answer.prompt_tokens) for answer in answers]
    for row in {row // sampling.beams for row in held.steered} if held is not None else ():
        answers[row] = replace(answers[row], finish_reason="length")  # it ended where it was made to
    return answers


def _processors(
    sampling: SamplingConfig, prompt_tokens: int, held: LogitsProcessor | None, recorder: LogprobRecorder | None
) -> list[LogitsProcessor]:
    """What changes or notes the logits, in this order: penalties, the constraint, the recorder."""
    processors: list[LogitsProcessor] = []
    if sampling.presence_penalty or sampling.frequency_penalty:
        processors.append(AnswerPenalties(prompt_tokens, sampling.presence_penalty, sampling.frequency_penalty))
    return [*processors, *(one for one in (held, recorder) if one is not None)]


@dataclass(frozen=True)
class PaddedPrompts:
    """The rows of a batch, left-padded, on the target's device.

    Attributes:
        ids, mask, positions: int64 [batch, tokens]; the mask is 0 where a row is padded.
        positions_given: whether positions differ from counting the tokens of a row.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    positions_given: bool

    @classmethod
    def of(cls, target: PreTrainedModel, batch: Batch) -> PaddedPrompts:
        """Lay the rows out for the target."""
        ids, mask = left_pad(batch.rows, pad_token_id(target))
        positions, _ = left_pad(batch.positions, 0)
        given = any(int(p[-1]) != len(p) - 1 for p in batch.positions)
        return cls(ids.to(target.device), mask.to(target.device), positions.to(target.device), given)

    def behind(self, context: Tensor) -> PaddedPrompts:
        """The same rows, each behind an int64 [tokens] context, with their padding between the two."""
        context = context.to(self.ids.device).expand(len(self.ids), -1)
        counted = torch.arange(context.shape[1], device=self.ids.device).expand_as(context)
        return PaddedPrompts(
            torch.cat([context, self.ids], dim=1),
            torch.cat([torch.ones_like(context), self.mask], dim=1),
            torch.cat([counted, self.positions + context.shape[1]], dim=1),
            True,
        )

    @property
    def tokens(self) -> int:
        """Of the longest row."""
        return int(self.ids.shape[1])


def pruned_cache(
    target: PreTrainedModel,
    batch: Batch,
    prompts: PaddedPrompts,
    speckv: SpecKVConfig,
    backend: str | None = None,
    ends: Sequence[int] | None = None,
    max_new_tokens: int = 1,
) -> PrunedCache | None:
    """The target's cache of the prompts, pruned by the look-ahead; where the target writes it, it is written here.

    Args:
        target: the model that will decode.
        batch, prompts: the rows, and the same rows as they are laid out.
        speckv: how to score and select.
        backend: kernel backend; None chooses by device.
        ends: the tokens that end an answer, and so a look-ahead; None takes those of the checkpoint.
        max_new_tokens: tokens of the answer.

    Returns:
        None where the tokens that are read and written cross the switch of the target's rotary frequencies: keys that
        were cached before the switch cannot be read behind it, so nothing is pruned.
    """
    if _goes_across(target, prompts, max(max_new_tokens, speckv.lookahead_tokens or _OWN_LOOKAHEAD_TOKENS)):
        return None
    if "target" in batch.lookahead_by:
        own = _own_lookahead(target, prompts, speckv, backend, end_token_ids(target, None) if ends is None else ends)
        by = batch.lookahead_by
        batch.lookahead = [own[i] if by[i] == "target" else batch.lookahead[i] for i in range(len(by))]
    observing = right_pad(observing_copies(target, batch, speckv))
    if _goes_across(target, prompts, observing[0].shape[1]):
        return None
    restore_frequencies(target)
    return prefill(target, prompts.ids, prompts.mask, prompts.positions, *observing, speckv, backend)


def _goes_across(target: PreTrainedModel, prompts: PaddedPrompts, written: int) -> bool:
    """Whether so many tokens behind the prompts change the target's rotary frequencies; says so in the log."""
    switch = RopeSwitch.of(target.config)
    tokens = int(prompts.positions.max()) + 1
    if switch is None or switch.side(tokens, tokens + written) != "across":
        return False
    logger.warning(
        "speckv prunes nothing here: a prompt of %d tokens with %d behind it goes across a switch of the target: %s. "
        "Shorten the prompt, lower max_new_tokens, or leave speckv out.",
        tokens,
        written,
        switch.reason(),
    )
    return True


def generate_from(
    target: PreTrainedModel,
    prompts: PaddedPrompts,
    cache: PrunedCache | None,
    max_new_tokens: int,
    processors: Sequence[LogitsProcessor] = (),
    **options: Any,
) -> Tensor:
    """transformers' generate, from a pruned cache or from nothing; int64 [rows, prompt and new tokens].

    Args:
        processors: change the logits before a token is chosen.
        **options: of `generate`; those that a checkpoint's own generation config may set must be among them.
    """
    if cache is not None:
        options["past_key_values"] = cache
    else:
        restore_frequencies(target)
    if prompts.positions_given:
        options["position_ids"] = prompts.positions
    masks: Any = contextlib.nullcontext()
    if cache is not None and cache.needs_masks:
        masks = capture(target, DecodeMasks(cache, base_attention(target), target))
    with masks, torch.no_grad():
        return target.generate(  # type: ignore[no-any-return]
            input_ids=prompts.ids,
            attention_mask=prompts.mask,
            max_new_tokens=max_new_tokens,
            logits_processor=LogitsProcessorList([FiniteLogits(), *processors]),
            **{"pad_token_id": pad_token_id(target), **options},
        )


def read_logits(target: PreTrainedModel, ids: Tensor, positions: Tensor, cache: PrunedCache | None = None) -> Tensor:
    """The target's logits [rows, tokens, vocabulary], each token behind all those before it.

    Positions with gaps, as selected prompt tokens have, are safe here: a model that gets them without a cache and
    without a mask reads each gap as the border between two packed texts, so one of the two is always given.

    Args:
        target: the model.
        ids: int64 [rows, tokens], without padding.
        positions: int64 [rows, tokens], their rotary positions.
        cache: what stands before them; it grows by the tokens. None where nothing does.
    """
    seen = {"attention_mask": torch.ones_like(ids)} if cache is None else {"past_key_values": cache}
    with torch.no_grad():
        outputs = target(input_ids=ids, position_ids=positions, use_cache=cache is not None, **seen)
    logits: Tensor = outputs.logits
    return logits


def _own_lookahead(
    target: PreTrainedModel, prompts: PaddedPrompts, speckv: SpecKVConfig, backend: str | None, ends: Sequence[int]
) -> list[Tensor]:
    """The target's first greedy tokens, written from a cache that its window queries alone have pruned."""
    nothing = torch.empty(len(prompts.ids), 0, dtype=torch.long)
    alone = replace(speckv, lookahead="none", copied_pieces=None)
    cache = prefill(target, prompts.ids, prompts.mask, prompts.positions, nothing, nothing.bool(), alone, backend)
    steps = speckv.lookahead_tokens or _OWN_LOOKAHEAD_TOKENS
    options = {**GREEDY, "eos_token_id": list(ends) or None}
    written = generate_from(target, prompts, cache, steps, **options)[:, prompts.tokens :]
    there = before_end(written, list(ends))
    return [row[own].cpu() for row, own in zip(written, there, strict=True)]


@dataclass(frozen=True)
class _Kept:
    """What the prefill of a batch kept, noted before the answer grows the cache."""

    dense_bytes: int = 0
    kept_bytes: int = 0
    rows: int = 1
    layers: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, cache: PrunedCache | None) -> _Kept:
        if cache is None:
            return cls()
        layers = tuple(layer.positions for layer in cache.layers if layer.positions is not None)
        return cls(cache.dense_bytes, cache.kept_bytes, layers[0].shape[0], layers)

    def row(self, index: int, padding: int) -> _Kept:
        """One row's share, its positions counted from its own first token."""
        layers = tuple((layer[index] - padding).clamp(min=-1).cpu() for layer in self.layers)
        return _Kept(self.dense_bytes // self.rows, self.kept_bytes // self.rows, 1, layers)


def _answer(
    pair: ModelPair,
    batch: Batch,
    index: int,
    generated: Tensor,
    sampling: SamplingConfig,
    kept: _Kept,
    timings: Timings,
    cancelled: bool,
    guessed: tuple[int, int],
    ends: Sequence[int],
) -> Answer:
    ids = generated.tolist()
    end = next((i for i, token in enumerate(ids) if token in ends), None)
    ids = ids if end is None else ids[: end + 1]
    text, stopped_after = _text(pair, ids, sampling.stop, ends)
    ids = ids if stopped_after is None else ids[:stopped_after]  # what follows fills the batch
    reason: FinishReason = "length"
    if end is not None or stopped_after is not None:
        reason = "stop"
    elif cancelled:
        reason = "cancelled"
    selected = batch.selected[index]
    unpruned = 0 if kept.layers else kv_bytes(pair.require_target(), len(batch.rows[index]))
    return Answer(
        text=text,
        output_ids=ids,
        prompt_tokens=batch.prompt_tokens[index],
        target_prompt_tokens=len(batch.rows[index]),
        completion_tokens=len(ids),
        finish_reason=reason,
        kv_bytes_dense=kept.dense_bytes or unpruned,
        kv_bytes_kept=kept.kept_bytes or unpruned,
        selected_positions=None if selected is None else selected.tolist(),
        layer_positions=kept.layers,
        lookahead_ids=batch.lookahead[index].tolist(),
        proposed_tokens=guessed[0],
        accepted_tokens=guessed[1],
        timings=timings,
    )


def _text(pair: ModelPair, ids: Sequence[int], stop: Sequence[str], ends: Sequence[int]) -> tuple[str, int | None]:
    """The text of an answer, and after how many tokens a stop string ended it; None where none did."""
    tokenizer = pair.tokenizer or pair.draft_tokenizer
    if tokenizer is None:
        return "", None
    whole = answer_text(tokenizer, ids, ends)
    if not stop:
        return whole, None
    text = AnswerText(tokenizer, stop, ends)
    for token in ids:
        text.add(token)
        if text.stopped:
            return text.text, text.tokens
    return whole, None
