"""How likely a target finds a given answer, read from a prompt that was compressed or a cache that was pruned.

This module does not know who asks, or what the answer is compared with.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from spec_rag.attention.capture import base_attention, capture
from spec_rag.errors import ConfigError
from spec_rag.generation.decoding import PaddedPrompts, pruned_cache, read_logits
from spec_rag.generation.draft_pass import read_with_draft
from spec_rag.generation.end_tokens import answer_ends
from spec_rag.generation.generate import PromptRow
from spec_rag.generation.model_errors import Faults
from spec_rag.generation.prompt_batch import Batch, is_pruned
from spec_rag.generation.pruned_cache import DecodeMasks
from spec_rag.models.error_context import check_finite
from spec_rag.models.model_pair import ModelPair
from spec_rag.models.rope import restore_frequencies
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.text.prompts import Prompt


@dataclass(frozen=True)
class Likelihood:
    """Of a given answer.

    Attributes:
        log_likelihood: the sum over its tokens of their log-probability, each behind those before it.
        is_greedy: whether greedy decoding would write it.
    """

    log_likelihood: float
    is_greedy: bool


def answer_likelihood(
    pair: ModelPair,
    prompt: Prompt,
    answer_ids: list[int],
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
) -> Likelihood:
    """How likely the target finds an answer; SpecKV's look-ahead is as long as the answer unless it is set.

    Args:
        pair: the models.
        prompt: text, messages or token ids.
        answer_ids: the answer's tokens, at least one.
        specpc, speckv: as for `generate`.

    Raises:
        ConfigError: the answer has no tokens.
        PromptTooLongError: prompt and answer are beyond the target's context.
        OutOfMemoryError, NotFiniteError: as for `generate`.
    """
    if not answer_ids:
        raise ConfigError("answer_ids is empty: give at least one token.")
    pair.require_target()
    row = PromptRow.of(pair.tokenizer, prompt, specpc)
    faults = Faults(pair, [row.ids], specpc, speckv)
    with pair.lock.hold():
        batch = Batch.of([row.ids], [row.units])
        try:
            with faults.of_draft():
                read_with_draft(pair, batch, specpc, speckv, len(answer_ids))
            with faults.of_target():
                return _likelihood(pair, batch, answer_ids, speckv)
        finally:
            restore_frequencies(pair.require_target())


def _likelihood(pair: ModelPair, batch: Batch, answer_ids: list[int], speckv: SpecKVConfig | None) -> Likelihood:
    target = pair.require_target()
    prompts = PaddedPrompts.of(target, batch)
    last = int(prompts.positions[0, -1])
    pair.check_context(target, last + 1 + len(answer_ids), "target", "compress the documents first.")
    cache, masks = None, contextlib.nullcontext()
    if speckv is not None and is_pruned(prompts.tokens, speckv):
        cache = pruned_cache(target, batch, prompts, speckv, ends=answer_ends(pair), max_new_tokens=len(answer_ids))
        if cache is not None and cache.needs_masks:
            masks = capture(target, DecodeMasks(cache, base_attention(target), target))  # type: ignore[assignment]
    answer = torch.tensor([answer_ids], device=prompts.ids.device)
    steps = torch.arange(1, len(answer_ids), device=prompts.ids.device)
    ids = torch.cat([prompts.ids, answer[:, :-1]], dim=1)
    positions = torch.cat([prompts.positions, prompts.positions[:, -1:] + steps], dim=1)
    if cache is None:
        restore_frequencies(target)
    if cache is not None:  # it holds all of the prompt but the last token
        ids, positions = ids[:, -len(answer_ids) :], positions[:, -len(answer_ids) :]
    with masks:
        logits = read_logits(target, ids, positions, cache)
    chances = logits[0, -len(answer_ids) :].float().log_softmax(dim=-1)
    told = chances.gather(1, answer[0, :, None])
    check_finite(chances.amax(), "logits")
    return Likelihood(float(told.sum()), bool((chances.argmax(dim=-1) == answer[0]).all()))
