"""One call of window_scores with its arguments checked and brought to one form, as every backend takes it."""

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
)

Reduction = Literal["max", "sum"]
ReduceHeads = Literal["none", "kv", "all"]


@dataclass(frozen=True)
class WindowScoresRequest:
    """The arguments of `window_scores`, with shapes as there.

    Raises:
        ValueError: an argument does not fit the others; the message names the first one.
    """

    query: Tensor
    key: Tensor
    scaling: float
    own_key: Tensor | None = None
    own_key_mask: Tensor | None = None
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
        """float32 [batch, window], zero in rows that do not count; None for all ones."""
        batch, _, window, _ = self.query.shape
        weights = None if self.query_weights is None else self.query_weights.float().expand(batch, window)
        if self.query_mask is None:
            return weights
        return self.query_mask.float() if weights is None else weights.masked_fill(~self.query_mask, 0.0)

    @property
    def seen_own_keys(self) -> Tensor | None:
        """bool [batch, own keys]: which exist; those of rows that do not count are hidden with them."""
        if self.own_key_mask is not None or self.own_key is None or self.query_mask is None:
            return self.own_key_mask
        return self.query_mask if self.own_key.shape[2] == self.query.shape[2] else None

    def __post_init__(self) -> None:
        query, key = self.query, self.key
        check_float("query", query)
        check_shape("query", query, [None] * 4, "[batch, heads, window, dim]")
        batch, heads, window, dim = query.shape
        check_shape("key", key, [None, None, None, dim], "[batch or 1, kv heads, keys, dim]")
        key_batch, key_heads, keys, _ = key.shape
        if key_batch not in (1, batch):
            raise ValueError(f"key has batch {key_batch}; it must be 1 or query's batch, {batch}")
        check_grouped_heads(heads, key_heads)
        check_dtype("key", key, query.dtype)
        check_device("key", key, query.device)
        if self.own_key is not None:
            self._check_own_key(self.own_key)
        elif window > keys:
            raise ValueError(
                f"query has {window} rows and key only {keys}; the queries' own keys must be the last of key"
            )
        elif self.own_key_mask is not None:
            raise ValueError("own_key_mask is given without own_key")
        check_choice("reduce_queries", self.reduce_queries, ("max", "sum"))
        check_choice("reduce_heads", self.reduce_heads, ("none", "kv", "all"))
        check_choice("head_reduction", self.head_reduction, ("max", "sum"))
        check_mask("query_mask", self.query_mask, [batch, window], query.device, "[batch, window]")
        check_mask("key_mask", self.key_mask, [key_batch, keys], query.device, "[key's batch, keys]")
        check_positive("softcap", self.softcap)
        check_positive("sliding_window", self.sliding_window)
        if self.sinks is not None:
            check_shape("sinks", self.sinks, [heads], "[heads]")
            check_device("sinks", self.sinks, query.device)
        if self.query_weights is not None:
            self._check_weights(self.query_weights)

    def _check_own_key(self, own_key: Tensor) -> None:
        batch, _, _, dim = self.query.shape
        check_shape("own_key", own_key, [batch, self.key.shape[1], None, dim], "[batch, kv heads, own keys, dim]")
        check_dtype("own_key", own_key, self.query.dtype)
        check_device("own_key", own_key, self.query.device)
        shape = [batch, own_key.shape[2]]
        check_mask("own_key_mask", self.own_key_mask, shape, self.query.device, "[batch, own keys]")
        if self.sliding_window is not None:
            raise ValueError("sliding_window cannot go with own_key: its keys have no common position in the window")

    def _check_weights(self, weights: Tensor) -> None:
        batch, _, window, _ = self.query.shape
        shape = [window] if weights.ndim == 1 else [batch, window]
        check_shape("query_weights", weights, shape, "[window] or [batch, window]")
        check_device("query_weights", weights, self.query.device)
        # On a GPU the check would wait for the device, in every layer of every pass.
        if weights.device.type == "cpu" and bool((weights < 0).any()):
            raise ValueError("query_weights has negative entries; it must be non-negative")
