"""The target's prefill of prompt and look-ahead under SpecKV: each layer is scored and cut before the next one runs."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from spec_rag_kernels import vertical_slash_attention
from torch import Tensor
from transformers import PreTrainedModel

from spec_rag.attention.capture import AttentionCall, Replaced, base_attention, capture
from spec_rag.attention.importance import kv_scores
from spec_rag.attention.token_selection import select_columns, select_kv
from spec_rag.errors import UnsupportedModelError
from spec_rag.generation.draft_pass import until_end
from spec_rag.generation.prompt_batch import Batch, PaddedPrompts
from spec_rag.generation.prompt_lookup import observing_tokens
from spec_rag.generation.pruned_cache import MASK_PER_HEAD, PrunedCache
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import GREEDY
from spec_rag.generation.target_calls import generate_from
from spec_rag.models.model_config import cache_option
from spec_rag.models.rope import RopeSwitch, restore_frequencies
from spec_rag.options.compression import SpecKVConfig
from spec_rag.text.tokenization import right_pad

logger = logging.getLogger(__name__)

_OWN_LOOKAHEAD_TOKENS = 8


class PrefillPruner:
    """Observer of the target's prefill: scores each layer's keys, prunes its cache, and runs the sparse attention.

    Args:
        cache: the cache that the prefill fills.
        config: capacity, window, look-ahead and sparse sizes.
        prompt_tokens: prompt tokens, left padding included.
        key_mask: bool [batch, prompt + look-ahead], False for padding; None without padding.
        backend: kernel backend; None selects by device.
    """

    def __init__(
        self,
        cache: PrunedCache,
        config: SpecKVConfig,
        prompt_tokens: int,
        key_mask: Tensor | None,
        backend: str | None = None,
    ) -> None:
        self.cache = cache
        self.config = config
        self.prompt_tokens = prompt_tokens
        self.key_mask = key_mask
        self.first_token = None if key_mask is None else key_mask[:, :prompt_tokens].long().argmax(dim=1)
        self.backend = backend
        self.visited_layers: set[int] = set()

    def __call__(self, call: AttentionCall) -> Replaced | None:
        """Score and prune one layer; compute its attention if it is sparse."""
        if call.layer >= len(self.cache.layers) or call.layer in self.visited_layers:
            raise UnsupportedModelError(
                f"Layer {call.layer} shares or repeats the keys of another, which cannot be pruned on its own: choose "
                "a target whose every layer has its own keys."
            )
        self.visited_layers.add(call.layer)
        cached = self.cache.layers[call.layer]
        if not cached.keys.shape == cached.values.shape == call.key.shape == call.value.shape:
            raise UnsupportedModelError(
                f"Layer {call.layer} keeps keys {list(cached.keys.shape)} and values {list(cached.values.shape)}, and "
                f"attends to keys {list(call.key.shape)} and values {list(call.value.shape)}: pruning needs one shape "
                "for all four, so latent attention (DeepSeek's MLA), experts of attention and values of another "
                "width than keys are refused. Choose another target, or compress documents as text."
            )
        mask = None if self.key_mask is None else self.key_mask.to(call.key.device)
        scores = kv_scores(call, self.config, self.prompt_tokens, mask, self.backend)
        self._prune(call, scores, mask)
        if call.key.shape[2] <= self.config.prefill_window_size + self.config.prefill_vertical_size:
            return None
        return Replaced(self._sparse(call, scores, mask))

    def _sparse(self, call: AttentionCall, scores: Tensor, mask: Tensor | None) -> Tensor:
        """[batch, heads, tokens, dim]: sparse attention, dense for rows that are short enough to be dense alone."""
        slash, all_rows = self.config.prefill_window_size, slice(None)
        if mask is None:
            return self._attend(call, all_rows, select_columns(scores, self.config), slash, None)
        columns = select_columns(scores, self.config, mask[:, : scores.shape[-1]])
        dense = mask.sum(dim=1) <= slash + self.config.prefill_vertical_size
        dense |= mask[:, : self.prompt_tokens].sum(dim=1) <= (self.config.max_capacity_prompt or 0)
        if not bool(dense.any()):
            return self._attend(call, all_rows, columns, slash, mask)
        output = torch.empty_like(call.query)
        output[~dense] = self._attend(call, ~dense, columns, slash, mask)
        output[dense] = self._attend(call, dense, columns[..., :0], call.key.shape[2], mask)
        return output

    def _attend(
        self, call: AttentionCall, rows: Tensor | slice, columns: Tensor, slash: int, mask: Tensor | None
    ) -> Tensor:
        """The sparse attention of these rows."""
        return vertical_slash_attention(
            call.query[rows],
            call.key[rows],
            call.value[rows],
            columns=columns[rows],
            slash=slash,
            scaling=call.scaling,
            softcap=call.softcap,
            sliding_window=call.sliding_window,
            sinks=call.sinks,
            key_mask=None if mask is None else mask[rows],
            backend=self.backend,
        )

    def _prune(self, call: AttentionCall, scores: Tensor, mask: Tensor | None) -> None:
        tokens = self.prompt_tokens - 1  # the last prompt token is fed again when decoding starts
        first = tokens - self.config.window
        batch, heads = scores.shape[:2]
        window = torch.arange(first, tokens, device=scores.device)
        if self.config.max_capacity_prompt is None:
            prefix = torch.arange(first, device=scores.device).expand(batch, heads, -1)
        else:
            prefix = select_kv(scores, self.config, None if mask is None else mask[:, :first])
        positions = torch.cat([prefix, window.expand(batch, heads, -1)], dim=-1)
        self.cache.layers[call.layer].keep(positions, tokens, self.first_token)


def pruned_cache(request: GenerationRequest, batch: Batch, prompts: PaddedPrompts) -> PrunedCache | None:
    """The target's cache of the prompts, pruned by the look-ahead; a look-ahead of the target is written first.

    Args:
        request: the job, with `speckv`.
        batch: the rows; a look-ahead that the target writes is stored in it.
        prompts: the same rows, padded.

    Returns:
        None if prompt and answer cross the target's switch of rotary frequencies: keys that were cached before it
        cannot be used after it.
    """
    target, speckv = request.target, request.speckv
    assert speckv is not None
    own_tokens = speckv.lookahead_tokens or _OWN_LOOKAHEAD_TOKENS
    if _crosses_rope_switch(target, prompts, max(request.sampling.max_new_tokens, own_tokens)):
        return None
    if "target" in batch.lookahead_by:
        own = _own_lookahead(request, prompts, own_tokens)
        batch.lookahead = [
            own[i] if source == "target" else batch.lookahead[i] for i, source in enumerate(batch.lookahead_by)
        ]
    observing = right_pad(observing_tokens(target, batch, speckv))
    if _crosses_rope_switch(target, prompts, observing[0].shape[1]):
        return None
    restore_frequencies(target)
    return prefill(target, prompts, observing, speckv, request.backend)


def _crosses_rope_switch(target: PreTrainedModel, prompts: PaddedPrompts, written: int) -> bool:
    """Whether `written` tokens after the prompts change the target's rotary frequencies; logs a warning if so."""
    switch = RopeSwitch.of(target.config)
    tokens = int(prompts.positions.max()) + 1
    if switch is None or switch.side(tokens, tokens + written) != "across":
        return False
    logger.warning(
        "speckv prunes nothing here: a prompt of %d tokens with %d after it crosses a switch of the target: %s. "
        "Shorten the prompt, lower max_new_tokens, or leave speckv out.",
        tokens,
        written,
        switch.reason(),
    )
    return True


def _own_lookahead(request: GenerationRequest, prompts: PaddedPrompts, tokens: int) -> list[Tensor]:
    """The target's first greedy tokens, written from a cache that was pruned by its window's queries alone."""
    assert request.speckv is not None
    target, ends = request.target, request.ends
    nothing = torch.empty(len(prompts.ids), 0, dtype=torch.long)
    window_only = replace(request.speckv, lookahead="none", copied_pieces=None)
    cache = prefill(target, prompts, (nothing, nothing.bool()), window_only, request.backend)
    options = {**GREEDY, "eos_token_id": ends or None}
    written = generate_from(target, prompts, cache, tokens, **options)[:, prompts.tokens :]
    return [row[kept].cpu() for row, kept in zip(written, until_end(written, ends), strict=True)]


def prefill(
    target: PreTrainedModel,
    prompts: PaddedPrompts,
    lookahead: tuple[Tensor, Tensor],
    config: SpecKVConfig,
    backend: str | None = None,
) -> PrunedCache:
    """Prefill prompt and look-ahead and keep the pairs that SpecKV selects (paper, section 4.1).

    Args:
        target: the model that will decode.
        prompts: longer than the window by at least two tokens.
        lookahead: int64 and bool [batch, look-ahead]: the ids, and a mask that is False after a row's end. Their length
            may be 0, as in SnapKV.
        config: scoring and selection.
        backend: kernel backend; None selects by device.

    Returns:
        A cache of all prompt tokens but the last.
    """
    if config.head_budget is None and base_attention(target) not in MASK_PER_HEAD:
        config = replace(config, head_budget="uniform")
    device = target.device
    lookahead_ids, lookahead_mask = (x.to(device) for x in lookahead)
    mask = torch.cat([prompts.mask.bool(), lookahead_mask], dim=1)
    steps = torch.arange(1, lookahead_ids.shape[1] + 1, device=device)
    cache = PrunedCache(target.config)
    pruner = PrefillPruner(cache, config, prompts.tokens, None if bool(mask.all()) else mask, backend)
    with capture(target, pruner), torch.no_grad():
        decoder = target.get_decoder()
        decoder(
            input_ids=torch.cat([prompts.ids, lookahead_ids], dim=1),
            attention_mask=mask.long(),
            position_ids=torch.cat([prompts.positions, prompts.positions[:, -1:] + steps], dim=1),
            **cache_option(decoder.forward, cache),
            use_cache=True,
        )
    if len(pruner.visited_layers) != len(cache.layers):
        raise UnsupportedModelError(
            f"{type(target).__name__} showed {len(pruner.visited_layers)} of its {len(cache.layers)} layers to the "
            "attention interface: its cache cannot be pruned faithfully."
        )
    return cache
