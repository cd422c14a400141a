"""A transformers cache that keeps selected key-value pairs of the prompt and grows by the answer's.

During the prefill each layer hands back all keys; as soon as its attention has been scored it is cut to the chosen
positions, so only one layer at a time holds its full keys and values. `get_seq_length` answers the logical length,
`get_mask_sizes` the physical one with its offset, so `generate` works unchanged. This module does not know how
positions are chosen.
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
        padding: int64 [batch, 2], from where to where (exclusive) each row is padded.
        seen: logical length: prompt and answer tokens that went through, whether kept or not.
        positions: int64 [batch, KV heads, kept] prompt positions of the kept pairs, -1 where a slot is empty; None
            before pruning.
    """

    def __init__(self, sliding_window: int | None = None) -> None:
        super().__init__()
        self.sliding_window = sliding_window
        self.is_sliding = sliding_window is not None
        self.seen = 0
        self.positions: Tensor | None = None
        self._shown: Tensor | None = None  # positions of the keys that were handed back last
        self.padding: Tensor = torch.zeros(0, 2, dtype=torch.long)
        self.dense_bytes = 0
        self.needs_mask = False

    def take(self, keys: Tensor, values: Tensor, positions: Tensor, prompt_tokens: int, padding: Tensor) -> None:
        """Hold pairs that were chosen before, of a prompt of so many tokens.

        Args:
            keys, values: [batch, KV heads, kept, dim]; neither is changed.
            positions: int64 [batch, KV heads, kept], ascending; -1 marks empty slots, in front.
            prompt_tokens: logical length.
            padding: int64 [batch, 2], from where to where (exclusive) each row will be padded.
        """
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self.positions = self._shown = positions
        self.padding = padding.to(positions.device)
        self.seen = prompt_tokens
        self.dense_bytes = (keys[:, :, :1].nbytes + values[:, :, :1].nbytes) * prompt_tokens
        last = prompt_tokens if self.sliding_window is None else min(self.sliding_window - 1, prompt_tokens)
        self.needs_mask = bool((positions < 0).any()) or (self.is_sliding and positions.shape[-1] < last)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take new pairs in, as transformers' cache layers do; what has left a sliding window goes."""
        self.seen += key_states.shape[-2]
        keys, values = super().update(key_states, value_states)
        if self.positions is not None:
            new = torch.arange(self.seen - key_states.shape[-2], self.seen, device=keys.device)
            self.positions = torch.cat([self.positions, new.expand(*self.positions.shape[:2], -1)], dim=-1)
            self._shown = self.positions
            if self.sliding_window is not None and not self.needs_mask:
                # everything visible is held: what leaves the window can go
                last = slice(1 - self.sliding_window, None)
                self.keys, self.values = keys[:, :, last], values[:, :, last]
                self.positions = self.positions[:, :, last]
        return keys, values

    def keep(self, positions: Tensor, prompt_tokens: int, first_token: Tensor | None = None) -> None:
        """Cut the prompt's pairs to `positions` and count `prompt_tokens` as seen.

        Args:
            positions: int64 [batch, KV heads, kept], ascending; -1 marks empty slots, in front.
            prompt_tokens: logical length after the cut; what stands behind it is forgotten.
            first_token: int64 [batch], where each row's prompt starts behind its left padding; None means 0.
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
        self.positions = self._shown = positions
        ends = torch.zeros(len(positions), dtype=torch.long) if first_token is None else first_token
        self.padding = torch.stack([torch.zeros_like(ends), ends], dim=1).to(positions.device)
        self.seen = prompt_tokens

    def visible(self, query_position: int) -> Tensor:
        """bool [batch, KV heads, keys]: what a query at that logical position may see of the keys it was handed."""
        assert self._shown is not None
        begins, ends = self.padding[:, :1, None], self.padding[:, 1:, None]
        visible = (self._shown >= 0) & ~((self._shown >= begins) & (self._shown < ends))
        if self.sliding_window is not None:
            visible = visible & (self._shown > query_position - self.sliding_window)
        return visible

    @property
    def kept_bytes(self) -> int:
        """Bytes of the keys and values that are held."""
        return int(self.keys.nbytes + self.values.nbytes)

    def get_seq_length(self) -> int:
        """The logical length."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The physical length with the queries, and the offset of the logical one."""
        held = self.keys.shape[-2] if self.is_initialized and self.keys.numel() else 0
        return held + query_length, self.seen - held

    def get_max_length(self) -> int:
        """The sliding window, or -1 for none."""
        return self.sliding_window if self.sliding_window is not None else -1

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.seen, self.positions, self._shown, self.needs_mask = 0, None, None, False

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last tokens away again, -tokens_to_remove of them; not from a sliding window that has moved on."""
        super().crop(tokens_to_remove)
        self.seen += tokens_to_remove
        if self.positions is not None and tokens_to_remove:
            self.positions = self._shown = self.positions[..., :tokens_to_remove]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow a beam search."""
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
        """Keep these rows alone."""
        super().batch_select_indices(indices)
        if self.positions is not None:
            self.positions, self.padding = self.positions[indices], self.padding[indices]


class PrunedCache(Cache):  # type: ignore[misc]
    """The cache of one generation: a `PrunedLayer` for each attention layer of the model."""

    layers: list[PrunedLayer]

    def __init__(self, config: PreTrainedConfig) -> None:
        """Lay out a layer for each of the model's own.

        Raises:
            UnsupportedModelError: a layer keeps something other than plain or sliding-window keys and values.
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
        """Bytes of the keys and values that all layers hold."""
        return sum(layer.kept_bytes for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        """Bytes that the prompt would take unpruned."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def can_roll_back(self) -> bool:
        """Whether the last tokens can be taken away again: no layer forgets what leaves a sliding window."""
        return not any(layer.is_sliding for layer in self.layers)

    @property
    def needs_masks(self) -> bool:
        """Whether some layer's heads hold different numbers of pairs, or pairs that will leave a sliding window."""
        return any(layer.needs_mask for layer in self.layers)


class DecodeMasks:
    """Observer that gives each query of the decoding the pairs it may see, where layers or heads differ in that."""

    def __init__(self, cache: PrunedCache, implementation: str, model: PreTrainedModel) -> None:
        if implementation not in MASK_PER_HEAD:
            raise UnsupportedModelError(
                f"attn_implementation={implementation!r} takes no mask per head, which adaptive head budgets and "
                f"pruned sliding layers of {type(model).__name__} need: load the target with "
                "attn_implementation='sdpa'."
            )
        self._cache = cache

    def __call__(self, call: AttentionCall) -> Tensor | None:
        """The mask of one layer, or None where the model's own will do."""
        layer = self._cache.layers[call.layer]
        if layer.positions is None or not self._cache.needs_masks:
            return None
        queries, keys = call.query.shape[2], call.key.shape[2]
        last = layer.seen - 1
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
