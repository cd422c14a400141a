"""A transformers cache that keeps selected key-value pairs of the prompt, and those of the answer.

During the prefill each layer returns all keys. It is cut to the selected positions as soon as its attention was scored,
so only one layer at a time holds all its keys and values. `get_seq_length` returns the logical length, `get_mask_sizes`
the physical length with its offset, so `generate` works unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from spec_rag_kernels import gather_kv
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from spec_rag.attention.capture import AttentionCall
from spec_rag.errors import UnsupportedModelError
from spec_rag.models.model_config import layer_kinds

MASK_PER_HEAD = ("sdpa", "eager")  # attention implementations that take a mask for each head


class PrunedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's kept keys and values, [batch, KV heads, kept, dim].

    Attributes:
        padding: int64 [batch, 2], each row's half-open range of padding.
        logical_tokens: prompt and answer tokens processed so far, kept or not.
        positions: int64 [batch, KV heads, kept], prompt positions of the kept pairs, -1 for an empty slot; None before
            pruning.
    """

    def __init__(self, sliding_window: int | None = None) -> None:
        super().__init__()
        self.sliding_window = sliding_window
        self.is_sliding = sliding_window is not None
        self.logical_tokens = 0
        self.positions: Tensor | None = None
        self._returned: Tensor | None = None  # positions of the keys that `update` returned last
        self.padding: Tensor = torch.zeros(0, 2, dtype=torch.long)
        self.dense_bytes = 0
        self.needs_mask = False

    def load(self, keys: Tensor, values: Tensor, positions: Tensor, prompt_tokens: int, padding: Tensor) -> None:
        """Hold pairs that were selected before.

        Args:
            keys, values: [batch, KV heads, kept, dim]; not changed in place.
            positions: int64 [batch, KV heads, kept], ascending, with -1 for empty slots in front.
            prompt_tokens: logical length.
            padding: int64 [batch, 2], each row's half-open range of padding.
        """
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self.positions = self._returned = positions
        self.padding = padding.to(positions.device)
        self.logical_tokens = prompt_tokens
        self.dense_bytes = (keys[:, :, :1].nbytes + values[:, :, :1].nbytes) * prompt_tokens
        last = prompt_tokens if self.sliding_window is None else min(self.sliding_window - 1, prompt_tokens)
        self.needs_mask = bool((positions < 0).any()) or (self.is_sliding and positions.shape[-1] < last)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append new pairs and return all; pairs that left a sliding window are dropped."""
        self.logical_tokens += key_states.shape[-2]
        keys, values = super().update(key_states, value_states)
        if self.positions is not None:
            new = torch.arange(self.logical_tokens - key_states.shape[-2], self.logical_tokens, device=keys.device)
            self.positions = torch.cat([self.positions, new.expand(*self.positions.shape[:2], -1)], dim=-1)
            self._returned = self.positions
            if self.sliding_window is not None and not self.needs_mask:
                # the layer holds the whole window, so no later query needs what leaves it
                last = slice(1 - self.sliding_window, None)
                self.keys, self.values = keys[:, :, last], values[:, :, last]
                self.positions = self.positions[:, :, last]
        return keys, values

    def keep(self, positions: Tensor, prompt_tokens: int, first_token: Tensor | None = None) -> None:
        """Cut the prompt's pairs to `positions`.

        Args:
            positions: int64 [batch, KV heads, kept], ascending, with -1 for empty slots in front.
            prompt_tokens: logical length after the cut; pairs from there on are dropped.
            first_token: int64 [batch], first position after each row's left padding; None is 0.
        """
        pair_bytes = self.keys[:, :, :1].nbytes + self.values[:, :, :1].nbytes
        self.dense_bytes = pair_bytes * prompt_tokens
        whole = positions.shape[-1] == prompt_tokens
        if self.sliding_window is not None and positions.shape[-1] >= self.sliding_window:
            positions = positions[..., 1 - self.sliding_window :]
            whole = bool((positions[..., 0] == prompt_tokens + 1 - self.sliding_window).all())
        ragged = bool((positions < 0).any())
        self.needs_mask = ragged or (self.is_sliding and not whole)
        if ragged:
            slots = positions.clamp(min=0)[..., None]
            self.keys, self.values = (torch.take_along_dim(x, slots, dim=2) for x in (self.keys, self.values))
        else:
            self.keys, self.values = gather_kv(self.keys, self.values, positions)
        self.positions = self._returned = positions
        ends = torch.zeros(len(positions), dtype=torch.long) if first_token is None else first_token
        self.padding = torch.stack([torch.zeros_like(ends), ends], dim=1).to(positions.device)
        self.logical_tokens = prompt_tokens

    def visible(self, query_position: int) -> Tensor:
        """bool [batch, KV heads, keys]: the returned keys that a query at that logical position may attend to."""
        assert self._returned is not None
        begins, ends = self.padding[:, :1, None], self.padding[:, 1:, None]
        visible = (self._returned >= 0) & ~((self._returned >= begins) & (self._returned < ends))
        if self.sliding_window is not None:
            visible = visible & (self._returned > query_position - self.sliding_window)
        return visible

    @property
    def kept_bytes(self) -> int:
        """Bytes of the held keys and values."""
        return int(self.keys.nbytes + self.values.nbytes)

    def get_seq_length(self) -> int:
        """The logical length."""
        return self.logical_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The physical length including the queries, and the offset of its first key."""
        held = self.keys.shape[-2] if self.is_initialized and self.keys.numel() else 0
        return held + query_length, self.logical_tokens - held

    def get_max_length(self) -> int:
        """The sliding window, or -1 without one."""
        return self.sliding_window if self.sliding_window is not None else -1

    def reset(self) -> None:
        """Drop all pairs."""
        super().reset()
        self.logical_tokens, self.positions, self._returned, self.needs_mask = 0, None, None, False

    def crop(self, tokens_to_remove: int) -> None:
        """Drop the last -tokens_to_remove tokens; not possible for a sliding window that has moved."""
        super().crop(tokens_to_remove)
        self.logical_tokens += tokens_to_remove
        if self.positions is not None and tokens_to_remove:
            self.positions = self._returned = self.positions[..., :tokens_to_remove]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows after a step of beam search."""
        super().reorder_cache(beam_idx)
        if self.positions is not None:
            rows = beam_idx.to(self.positions.device)
            self.positions, self.padding = self.positions[rows], self.padding[rows]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row, for beams."""
        super().batch_repeat_interleave(repeats)
        if self.positions is not None:
            self.positions = self.positions.repeat_interleave(repeats, dim=0)
            self.padding = self.padding.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        super().batch_select_indices(indices)
        if self.positions is not None:
            self.positions, self.padding = self.positions[indices], self.padding[indices]


class PrunedCache(Cache):  # type: ignore[misc]
    """The cache of one generation: a `PrunedLayer` for each attention layer of the model."""

    layers: list[PrunedLayer]

    def __init__(self, config: PreTrainedConfig) -> None:
        """Create one layer per layer of the model.

        Raises:
            UnsupportedModelError: a layer has neither full nor sliding-window attention.
        """
        decoder_config = config.get_text_config(decoder=True)
        kinds = layer_kinds(config) - {"full_attention", "sliding_attention"}
        if kinds:
            raise UnsupportedModelError(
                f"{decoder_config.model_type!r} has layers of type {', '.join(sorted(kinds))}, which cannot be pruned "
                "per key: choose a target of full and sliding-window attention alone."
            )
        layers = []
        for layer in DynamicCache(config=config).layers:
            if type(layer) is DynamicSlidingWindowLayer:
                layers.append(PrunedLayer(layer.sliding_window))
            elif type(layer) is DynamicLayer:
                layers.append(PrunedLayer())
            else:
                raise UnsupportedModelError(
                    f"Layers of {decoder_config.model_type!r} keep a {type(layer).__name__}, which cannot be pruned "
                    "per key: choose a target whose layers all hold keys and values."
                )
        super().__init__(layers=layers or [PrunedLayer() for _ in range(decoder_config.num_hidden_layers)])

    @property
    def kept_bytes(self) -> int:
        """Bytes of the held keys and values of all layers."""
        return sum(layer.kept_bytes for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the prompt without pruning."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def can_roll_back(self) -> bool:
        """Whether `crop` works: no layer drops pairs that leave a sliding window."""
        return not any(layer.is_sliding for layer in self.layers)

    @property
    def needs_masks(self) -> bool:
        """Whether a layer has heads with different numbers of pairs, or pruned pairs of a sliding window."""
        return any(layer.needs_mask for layer in self.layers)


class DecodeMasks:
    """Observer of the decoding that masks empty slots, padding and pairs outside of a sliding window, per head."""

    def __init__(self, cache: PrunedCache, implementation: str, model: PreTrainedModel) -> None:
        if implementation not in MASK_PER_HEAD:
            raise UnsupportedModelError(
                f"attn_implementation={implementation!r} takes no mask per head, which adaptive head budgets and "
                f"pruned sliding layers of {type(model).__name__} need: load the target with "
                "attn_implementation='sdpa'."
            )
        self._cache = cache

    def __call__(self, call: AttentionCall) -> Tensor | None:
        """The mask of one layer, or None to use the model's own."""
        layer = self._cache.layers[call.layer]
        if layer.positions is None or not self._cache.needs_masks:
            return None
        queries, keys = call.query.shape[2], call.key.shape[2]
        last = layer.logical_tokens - 1
        if layer.is_sliding:
            rows = [layer.visible(position) for position in range(last + 1 - queries, last + 1)]
            visible = torch.stack(rows, dim=2)[..., -keys:]  # [batch, KV heads, queries, keys]
        else:
            visible = layer.visible(last)[:, :, None, -keys:].expand(-1, -1, queries, -1)
        if queries > 1:
            own = torch.ones(queries, queries, dtype=torch.bool, device=visible.device).tril()
            visible = torch.cat([visible[..., : keys - queries], visible[..., keys - queries :] & own], dim=-1)
        visible = visible.repeat_interleave(call.query.shape[1] // call.key.shape[1], dim=1)
        bias = torch.zeros(visible.shape, dtype=call.query.dtype, device=call.query.device)
        return bias.masked_fill(~visible, torch.finfo(call.query.dtype).min)
