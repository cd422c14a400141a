"""The target's prefill over prompt and look-ahead, which leaves a cache of the pairs that matter.

Each layer is scored, cut and forgotten before the next one runs. This module does not know who wrote the look-ahead.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from spec_rag_kernels import vertical_slash_attention
from torch import Tensor
from transformers import PreTrainedModel

from spec_rag.attention.capture import AttentionCall, Replaced, base_attention, capture
from spec_rag.attention.importance import kv_scores
from spec_rag.attention.token_selection import select_columns, select_kv
from spec_rag.errors import UnsupportedModelError
from spec_rag.generation.pruned_cache import MASK_PER_HEAD, PrunedCache
from spec_rag.options.compression import SpecKVConfig


class PrefillPruner:
    """Observes the target's prefill: scores each layer's keys, prunes its cache, and runs the sparse attention.

    Args:
        cache: the cache that the prefill fills.
        config: capacity, window, look-ahead and sparse sizes.
        prompt_tokens: prompt tokens, left padding included.
        key_mask: bool [batch, prompt + look-ahead], False where padded; None when nothing is.
        backend: kernel backend; None chooses by device.
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
        self.layers_seen: set[int] = set()

    def __call__(self, call: AttentionCall) -> Replaced | None:
        """Score, prune and, where it is sparse, compute one layer."""
        if call.layer >= len(self.cache.layers) or call.layer in self.layers_seen:
            raise UnsupportedModelError(
                f"Layer {call.layer} shares or repeats the keys of another, which cannot be pruned on its own: choose "
                "a target whose every layer has its own keys."
            )
        self.layers_seen.add(call.layer)
        held = self.cache.layers[call.layer]
        if not held.keys.shape == held.values.shape == call.key.shape == call.value.shape:
            raise UnsupportedModelError(
                f"Layer {call.layer} keeps keys {list(held.keys.shape)} and values {list(held.values.shape)}, and "
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
        """[batch, heads, tokens, dim]: columns and band, and everything in a row that alone would be read densely."""
        slash, everything = self.config.prefill_window_size, slice(None)
        if mask is None:
            return self._attend(call, everything, select_columns(scores, self.config), slash, None)
        columns = select_columns(scores, self.config, mask[:, : scores.shape[-1]])
        dense = mask.sum(dim=1) <= slash + self.config.prefill_vertical_size
        dense |= mask[:, : self.prompt_tokens].sum(dim=1) <= (self.config.max_capacity_prompt or 0)
        if not bool(dense.any()):
            return self._attend(call, everything, columns, slash, mask)
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
        held = self.prompt_tokens - 1  # the last prompt token is fed again when decoding starts
        first = held - self.config.window
        batch, heads = scores.shape[:2]
        window = torch.arange(first, held, device=scores.device)
        if self.config.max_capacity_prompt is None:
            prefix = torch.arange(first, device=scores.device).expand(batch, heads, -1)
        else:
            prefix = select_kv(scores, self.config, None if mask is None else mask[:, :first])
        positions = torch.cat([prefix, window.expand(batch, heads, -1)], dim=-1)
        self.cache.layers[call.layer].keep(positions, held, self.first_token)


def prefill(
    target: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    lookahead_ids: Tensor,
    lookahead_mask: Tensor,
    config: SpecKVConfig,
    backend: str | None = None,
) -> PrunedCache:
    """Prefill prompt and look-ahead and keep what SpecKV selects (paper, section 4.1).

    Args:
        target: the model that will decode.
        input_ids: int64 [batch, prompt tokens], left-padded, longer than the window by at least two.
        attention_mask: [batch, prompt tokens], 0 where padded.
        position_ids: int64 [batch, prompt tokens], each prompt token's rotary position.
        lookahead_ids: int64 [batch, look-ahead], perhaps of length 0 (then this is SnapKV).
        lookahead_mask: bool [batch, look-ahead], False behind a row's end.
        config: how to score and select.
        backend: kernel backend; None chooses by device.

    Returns:
        A cache that has seen all prompt tokens but the last.
    """
    if config.head_budget is None and base_attention(target) not in MASK_PER_HEAD:
        config = replace(config, head_budget="uniform")
    device = target.device
    mask = torch.cat([attention_mask.bool().to(device), lookahead_mask.to(device)], dim=1)
    steps = torch.arange(1, lookahead_ids.shape[1] + 1, device=device)
    positions = position_ids.to(device)
    cache = PrunedCache(target.config)
    pruner = PrefillPruner(cache, config, input_ids.shape[1], None if bool(mask.all()) else mask, backend)
    decoder = target.get_decoder()
    with capture(target, pruner), torch.no_grad():
        decoder(
            input_ids=torch.cat([input_ids.to(device), lookahead_ids.to(device)], dim=1),
            attention_mask=mask.long(),
            position_ids=torch.cat([positions, positions[:, -1:] + steps], dim=1),
            past_key_values=cache,
            use_cache=True,
        )
    if len(pruner.layers_seen) != len(cache.layers):
        raise UnsupportedModelError(
            f"{type(target).__name__} showed {len(pruner.layers_seen)} of its {len(cache.layers)} layers to the "
            "attention interface: its cache cannot be pruned faithfully."
        )
    return cache
