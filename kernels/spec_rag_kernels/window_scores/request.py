"""Validated arguments of one window_scores call, shared by all backends."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from spec_rag_kernels.checks import (
    check_choice,
    check_device,
    check_dtype,
    check_float,
    check_grouped_heads,
    check_mask,
    check_positive,
    check_shape,
    check_sinks,
)

Reduction = Literal["max", "sum"]
ReduceHeads = Literal["none", "kv", "all"]


@dataclass(frozen=True)
class WindowScoresRequest:
    """The arguments of `window_scores`, with the same shapes.

    Raises:
        ValueError: an argument is invalid; the message names the first one.
    """

    query: Tensor
    key: Tensor
    scaling: float
    reduce_queries: Reduction = "max"
    reduce_heads: ReduceHeads = "none"
    head_reduction: Reduction = "max"
    query_weights: Tensor | None = None
    query_mask: Tensor | None = None
    key_mask: Tensor | None = None
    softcap: float | None = None
    sliding_window: int | None = None
    sinks: Tensor | None = None

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.query.shape[1] // self.key.shape[1]

    @cached_property
    def row_weights(self) -> Tensor | None:
        """float32 [batch, window], zero in masked rows; None if all are one."""
        batch, _, window, _ = self.query.shape
        weights = None if self.query_weights is None else self.query_weights.float().expand(batch, window)
        if self.query_mask is None:
            return weights
        return self.query_mask.float() if weights is None else weights.masked_fill(~self.query_mask, 0.0)

    def __post_init__(self) -> None:
        query, key = self.query, self.key
        check_float("query", query)
        check_shape("query", query, [None] * 4, "[batch, heads, window, dim]")
        batch, heads, window, dim = query.shape
        check_shape("key", key, [batch, None, None, dim], "[batch, kv heads, keys, dim]")
        _, key_heads, keys, _ = key.shape
        check_grouped_heads(heads, key_heads)
        check_dtype("key", key, query.dtype)
        check_device("key", key, query.device)
        if window > keys:
            raise ValueError(
                f"query has {window} rows and key only {keys}; the keys of the queries must be the last of key"
            )
        check_choice("reduce_queries", self.reduce_queries, ("max", "sum"))
        check_choice("reduce_heads", self.reduce_heads, ("none", "kv", "all"))
        check_choice("head_reduction", self.head_reduction, ("max", "sum"))
        check_mask("query_mask", self.query_mask, [batch, window], query.device, "[batch, window]")
        check_mask("key_mask", self.key_mask, [batch, keys], query.device, "[batch, keys]")
        check_positive("softcap", self.softcap)
        check_positive("sliding_window", self.sliding_window)
        check_sinks(self.sinks, heads, query.device)
        if self.query_weights is not None:
            self._check_weights(self.query_weights)

    def _check_weights(self, weights: Tensor) -> None:
        batch, _, window, _ = self.query.shape
        shape = [window] if weights.ndim == 1 else [batch, window]
        check_shape("query_weights", weights, shape, "[window] or [batch, window]")
        check_device("query_weights", weights, self.query.device)
        # On a GPU the check would synchronize with the device in every layer of every pass.
        if weights.device.type == "cpu" and bool((weights < 0).any()):
            raise ValueError("query_weights has negative entries; it must be non-negative")
