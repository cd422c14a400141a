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
    StopStringCriteria,
)
from transformers.generation.streamers import BaseStreamer

from spec_rag.attention.capture import base_attention, capture
from spec_rag.config import SpecKVConfig
from spec_rag.errors import ConfigError
from spec_rag.generation.batch import Batch, is_pruned
from spec_rag.generation.constrained import constrained_logits
from spec_rag.generation.context import ContextCache, check_one_side
from spec_rag.generation.copies import observing_copies
from spec_rag.generation.draft import before_end
from spec_rag.generation.faults import FiniteLogits
from spec_rag.generation.prefill import prefill
from spec_rag.generation.pruned_cache import DecodeMasks, PrunedCache
from spec_rag.generation.sampling import GREEDY, SamplingConfig, eos_token_ids, pad_token_id, seeded
from spec_rag.generation.second_choice import choose_again, chooses_again
from spec_rag.generation.speculation import Guesses, VerifiedDecoding, can_verify
from spec_rag.generation.stopping import CancelCriterion, Cancelled, RowEnds, is_cancelled
from spec_rag.models.pair import ModelPair
from spec_rag.models.rope import RopeSwitch, restore_frequencies
from spec_rag.results import Answer, FinishReason, Timings
from spec_rag.text.tokens import left_pad, right_pad

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
    held = constrained_logits(pair, sampling, prompts.tokens, _ends(pair, sampling))
    started = time.perf_counter()
    cache = None
    if context is not None:
        check_one_side(target, prompts.tokens + sampling.max_new_tokens)
        cache = context.start(target, (prompts.mask == 0).sum(dim=1))
        if chooses_again(cache, speckv):
            assert speckv is not None
            choose_again(target, cache, context.ids, batch.rows, speckv, backend)
    elif is_pruned(prompts.tokens, speckv):
        assert speckv is not None
        if prompts.tokens < speckv.window + 2:
            raise ConfigError(
                f"window_size={speckv.window} leaves nothing to prune of {prompts.tokens} tokens: lower window_size."
            )
        cache = pruned_cache(target, batch, prompts, speckv, backend, sampling.max_new_tokens)
    kept = _Kept.of(cache)
    if cache is not None and sampling.beams > 1:
        cache.batch_repeat_interleave(sampling.beams)
    criterion = CancelCriterion(cancelled)
    criteria: list[StoppingCriteria] = [criterion]
    if sampling.stop:
        criteria.append(StopStringCriteria(pair.require_tokenizer(), list(sampling.stop)))
    ends = RowEnds(criteria, prompts.tokens, len(batch.rows))
    options: dict[str, Any] = {"streamer": streamer, "stopping_criteria": StoppingCriteriaList([ends])}
    if held is not None:
        options["processors"] = [held]
    guesses = Guesses(batch.lookahead[0].tolist())
    if cache is not None and speckv is not None and can_verify(batch, cache, speckv, sampling):
        options["custom_generate"] = VerifiedDecoding(cache, guesses, streamer)
    with seeded(sampling.seed, target):
        sequences = generate_from(target, prompts, cache, sampling.max_new_tokens, **sampling.options, **options)
    ended = time.perf_counter()
    first = criterion.first_token_at or ended
    timings = Timings(batch.draft_seconds, first - started, ended - first)
    padding = [0] * len(batch.rows) if context is not None else (prompts.mask == 0).sum(dim=1).tolist()
    if sampling.beams == 1:
        written = [ends.answer(i, row) for i, row in enumerate(sequences)]
    else:
        stops = RowEnds(criteria[1:], prompts.tokens, 0)
        written = [stops.answer_of_beams(row) for row in sequences]
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
        )
        for i in range(len(batch.rows))
    ]
    if context is not None:
        answers = [replace(answer, prompt_tokens=context.tokens + answer.prompt_tokens) for answer in answers]
    for row in {row // sampling.beams for row in held.steered} if held is not None else ():
        answers[row] = replace(answers[row], finish_reason="length")  # it ended where it was made to
    return answers


def _ends(pair: ModelPair, sampling: SamplingConfig) -> list[int]:
    """The tokens that end an answer."""
    eos = sampling.options.get("eos_token_id")
    return eos_token_ids(pair.require_target()) if eos is None else list(eos)


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
    max_new_tokens: int = 1,
) -> PrunedCache | None:
    """The target's cache of the prompts, pruned by the look-ahead; where the target writes it, it is written here.

    None where what is read and written goes across the switch of the target's rotary frequencies: keys that were cached
    before it cannot be read behind it, so nothing is pruned.
    """
    if _goes_across(target, prompts, max(max_new_tokens, speckv.lookahead_tokens or _OWN_LOOKAHEAD_TOKENS)):
        return None
    if "target" in batch.lookahead_by:
        own = _own_lookahead(target, prompts, speckv, backend)
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
        switch.explained(),
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


def _own_lookahead(
    target: PreTrainedModel, prompts: PaddedPrompts, speckv: SpecKVConfig, backend: str | None
) -> list[Tensor]:
    """The target's first greedy tokens, written from a cache that its window queries alone have pruned."""
    nothing = torch.empty(len(prompts.ids), 0, dtype=torch.long)
    alone = replace(speckv, lookahead="none", copied_pieces=None)
    cache = prefill(target, prompts.ids, prompts.mask, prompts.positions, nothing, nothing.bool(), alone, backend)
    steps = speckv.lookahead_tokens or _OWN_LOOKAHEAD_TOKENS
    written = generate_from(target, prompts, cache, steps, **GREEDY)[:, prompts.tokens :]
    there = before_end(written, eos_token_ids(target))
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
) -> Answer:
    ends = _ends(pair, sampling)
    ids = generated.tolist()
    end = next((i for i, token in enumerate(ids) if token in ends), None)
    ids = ids if end is None else ids[: end + 1]
    text = pair.tokenizer.decode(ids, skip_special_tokens=True) if pair.tokenizer is not None else ""
    cut = min((at for at in (text.find(s) for s in sampling.stop) if at >= 0), default=None)
    reason: FinishReason = "length"
    if end is not None or cut is not None:
        reason = "stop"
    elif cancelled:
        reason = "cancelled"
    selected = batch.selected[index]
    return Answer(
        text=text if cut is None else text[:cut],
        output_ids=ids,
        prompt_tokens=batch.prompt_tokens[index],
        target_prompt_tokens=len(batch.rows[index]),
        completion_tokens=len(ids),
        finish_reason=reason,
        kv_bytes_dense=kept.dense_bytes,
        kv_bytes_kept=kept.kept_bytes,
        selected_positions=None if selected is None else selected.tolist(),
        layer_positions=kept.layers,
        lookahead_ids=batch.lookahead[index].tolist(),
        guessed_tokens=guessed[0],
        right_guesses=guessed[1],
        timings=timings,
    )
