"""Importance of tokens from attention: observers that reduce the attention of the draft or the target.

The reductions follow the paper (sections 4.1 and 4.2). The softmax is computed without storing heads x window x keys.
"""

from __future__ import annotations

from typing import Literal

import torch
from spec_rag_kernels import window_scores
from torch import Tensor

from spec_rag.attention.capture import AttentionCall
from spec_rag.errors import ConfigError, UnsupportedModelError
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig


class PromptImportance:
    """Observer of a draft's prefill and its first look-ahead steps, which computes the importance of each prompt token.

    Args:
        config: window, reduction, layers and look-ahead steps.
        key_mask: bool [batch, prompt tokens], False for left padding, or None.
        backend: kernel backend; None selects by device.
    """

    def __init__(self, config: SpecPCConfig, key_mask: Tensor | None = None, backend: str | None = None) -> None:
        self.config = config
        self.key_mask = key_mask
        self.backend = backend
        self.prompt_tokens: int | None = None
        self._total: Tensor | None = None
        self._steps: dict[int, int] = {}
        self._unended_rows: Tensor | None = None

    def set_unended_rows(self, rows: Tensor) -> None:
        """Set bool [batch]: the rows whose look-ahead has not ended; only these count from the next step on."""
        self._unended_rows = rows

    def __call__(self, call: AttentionCall) -> None:
        """Reduce one call of one layer."""
        queries, keys = call.query.shape[2], call.key.shape[2]
        if self.prompt_tokens is None:
            self.prompt_tokens = queries
        step = self._steps.get(call.layer, 0)  # look-ahead tokens written so far
        self._steps[call.layer] = step + 1
        if call.layer < self.config.starting_layer_index or step >= self.config.lookahead_tokens:
            return
        scores = self._window(call) if queries > 1 else self._scores(call, call.query, None, step)
        if step and self._unended_rows is not None:
            scores = scores * self._unended_rows[:, None].to(scores)
        dropped = self.prompt_tokens + step - keys  # keys that the cache of a sliding layer has dropped
        self._add(torch.nn.functional.pad(scores, (dropped, 0)))

    def _window(self, call: AttentionCall) -> Tensor:
        window = min(self.config.window_size, call.query.shape[2])
        weights = None
        if self.config.weighted_query:
            weights = torch.linspace(0, 1, window, device=call.query.device, dtype=call.query.dtype).float()
        return self._scores(call, call.query[:, :, -window:], weights, 0)

    def _scores(self, call: AttentionCall, query: Tensor, weights: Tensor | None, step: int) -> Tensor:
        reduction: Literal["max", "sum"] = "max" if self.config.reduction_type == "max" else "sum"
        mask = self.key_mask
        if mask is not None:
            mask = torch.nn.functional.pad(mask.to(query.device), (0, step), value=True)[:, -call.key.shape[2] :]
        scores = window_scores(
            query,
            call.key,
            scaling=call.scaling,
            reduce_queries=reduction,
            reduce_heads="all",
            head_reduction=reduction,
            query_weights=weights,
            key_mask=mask,
            softcap=call.softcap,
            sliding_window=call.sliding_window,
            sinks=call.sinks,
            backend=self.backend,
        )
        return scores.to(call.query.dtype)

    def _add(self, scores: Tensor) -> None:
        scores = scores[:, : self.prompt_tokens]
        if self._total is None:
            self._total = scores
        else:
            scores = scores.to(self._total.device)
            self._total = (
                torch.maximum(self._total, scores) if self.config.reduction_type == "max" else self._total + scores
            )

    def result(self) -> Tensor:
        """[batch, prompt tokens], in the draft's dtype; at most 1 for "max", a sum for "mean".

        Raises:
            UnsupportedModelError: no layer was observed: the model does not use the attention interface.
            ConfigError: starting_layer_index exceeds the last layer.
        """
        if not self._steps:
            raise UnsupportedModelError(
                "The draft ran without showing any layer to transformers' attention interface, so there is no "
                "attention to score by: choose a draft whose attention goes through it (docs/architectures.md)."
            )
        if self._total is None:
            raise ConfigError(
                f"starting_layer_index={self.config.starting_layer_index}: the draft's last layer is "
                f"{max(self._steps)}, so there is no attention to score by: choose a smaller one."
            )
        return self._total


def kv_scores(
    call: AttentionCall,
    config: SpecKVConfig,
    prompt_tokens: int,
    key_mask: Tensor | None,
    backend: str | None = None,
) -> Tensor:
    """Score the keys before the window by the attention of the queries of window and look-ahead.

    Args:
        call: one layer's prefill of prompt and look-ahead.
        config: window and reduction.
        prompt_tokens: prompt tokens, padding included; later keys belong to the look-ahead.
        key_mask: bool [batch, keys], False for padding left of the prompt or right of the look-ahead; or None.
        backend: kernel backend; None selects by device.

    Returns:
        float32 [batch, KV heads, prompt_tokens - 1 - window].
    """
    first = prompt_tokens - 1 - config.window
    query_mask = None if key_mask is None else key_mask[:, first:].to(call.query.device)
    reduction: Literal["max", "sum"] = "max" if config.reduction_type == "max" else "sum"
    scores = window_scores(
        call.query[:, :, first:],
        call.key,
        scaling=call.scaling,
        reduce_queries=reduction,
        reduce_heads="kv",
        head_reduction=reduction,
        query_mask=query_mask,
        key_mask=None if key_mask is None else key_mask.to(call.query.device),
        softcap=call.softcap,
        sliding_window=call.sliding_window,
        sinks=call.sinks,
        backend=backend,
    )
    return scores[:, :, :first]
