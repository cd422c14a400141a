"""Calls of the target: generation and logits, from a pruned cache or without one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from spec_rag.attention.capture import base_attention, capture
from spec_rag.generation.model_errors import FiniteLogits
from spec_rag.generation.prompt_batch import PaddedPrompts
from spec_rag.generation.pruned_cache import DecodeMasks, PrunedCache
from spec_rag.generation.sampling import pad_token_id
from spec_rag.models.model_config import cache_option
from spec_rag.models.rope import restore_frequencies


def generate_from(
    target: PreTrainedModel,
    prompts: PaddedPrompts,
    cache: PrunedCache | None,
    max_new_tokens: int,
    processors: Sequence[LogitsProcessor] = (),
    **options: Any,
) -> Tensor:
    """Call transformers' `generate`.

    Args:
        target: the model.
        prompts: the padded prompts.
        cache: holds all prompt tokens but the last; None starts with a dense prefill.
        max_new_tokens: maximum length of the answers.
        processors: change the logits before a token is chosen.
        **options: of `generate`; they include every field that a checkpoint's generation config may set.

    Returns:
        int64 [rows, prompt and new tokens].
    """
    if cache is not None:
        options |= cache_option(target.prepare_inputs_for_generation, cache)
    else:
        restore_frequencies(target)
    if prompts.has_gaps:
        options["position_ids"] = prompts.positions
    with masks_of(target, cache), torch.no_grad():
        return target.generate(  # type: ignore[no-any-return]
            input_ids=prompts.ids,
            attention_mask=prompts.mask,
            max_new_tokens=max_new_tokens,
            logits_processor=LogitsProcessorList([FiniteLogits(), *processors]),
            **{"pad_token_id": pad_token_id(target), **options},
        )


def masks_of(target: PreTrainedModel, cache: PrunedCache | None) -> AbstractContextManager[None]:
    """Inside the block, the target's attention gets the masks that the cache needs, if it needs any."""
    if cache is None or not cache.needs_masks:
        return contextlib.nullcontext()
    return capture(target, DecodeMasks(cache, base_attention(target), target))


def read_logits(target: PreTrainedModel, ids: Tensor, positions: Tensor, cache: PrunedCache | None = None) -> Tensor:
    """The target's logits [rows, tokens, vocabulary].

    Positions may have gaps. Without cache and mask, transformers reads a gap as the start of another packed sequence,
    so one of the two is always passed.

    Args:
        target: the model.
        ids: int64 [rows, tokens], without padding.
        positions: int64 [rows, tokens], their rotary positions.
        cache: the tokens before them, to which they are added; or None.
    """
    past = {"attention_mask": torch.ones_like(ids)} if cache is None else cache_option(target.forward, cache)
    with masks_of(target, cache), torch.no_grad():
        outputs = target(input_ids=ids, position_ids=positions, use_cache=cache is not None, **past)
    logits: Tensor = outputs.logits
    return logits
