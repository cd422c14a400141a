"""One call of window_scores with its arguments checked and brought to one form, as every backend takes it."""

from dataclasses import dataclass
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
HeadReduction = Reduction
ReduceHeads = Literal["none", "kv", "all"]


@dataclass(frozen=True)
class WindowScoresRequest:
    """Shapes as in `window_scores`; `row_weights` float32 [b, w] is zero in rows that do not count, or None for all
    ones.
    """

    query: Tensor
    key: Tensor
    scaling: float
    own_key: Tensor | None
    own_key_mask: Tensor | None
    reduce_queries: Reduction
    reduce_heads: ReduceHeads
    head_reduction: HeadReduction
    row_weights: Tensor | None
    head_mask: Tensor | None
    key_mask: Tensor | None
    softcap: float | None
    sliding_window: int | None
    sinks: Tensor | None
    causal: bool

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.query.shape[1] // self.key.shape[1]

    @classmethod
    def checked(
        cls,
        *,
        query: Tensor,
        key: Tensor,
        scaling: float,
        own_key: Tensor | None,
        own_key_mask: Tensor | None,
        reduce_queries: Reduction,
        reduce_heads: ReduceHeads,
        head_reduction: HeadReduction,
        query_weights: Tensor | None,
        query_mask: Tensor | None,
        head_mask: Tensor | None,
        key_mask: Tensor | None,
        softcap: float | None,
        sliding_window: int | None,
        sinks: Tensor | None,
        causal: bool,
    ) -> "WindowScoresRequest":
        """The request of these arguments; raises ValueError naming the first one that does not fit."""
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
        if own_key is not None:
            check_shape("own_key", own_key, [batch, key_heads, None, dim], "[batch, kv heads, own keys, dim]")
            check_dtype("own_key", own_key, query.dtype)
            check_device("own_key", own_key, query.device)
            if sliding_window is not None:
                raise ValueError(
                    "sliding_window cannot go with own_key: its keys have no common position in the window"
                )
        elif causal and window > keys:
            raise ValueError(
                f"query has {window} rows and key only {keys}; the queries' own keys must be the last of key"
            )
        check_choice("reduce_queries", reduce_queries, ("max", "sum"))
        check_choice("reduce_heads", reduce_heads, ("none", "kv", "all"))
        check_choice("head_reduction", head_reduction, ("max", "sum"))
        check_mask("query_mask", query_mask, [batch, window], query.device, "[batch, window]")
        check_mask("head_mask", head_mask, [heads], query.device, "[heads]")
        check_mask("key_mask", key_mask, [key_batch, keys], query.device, "[key's batch, keys]")
        check_positive("softcap", softcap)
        check_positive("sliding_window", sliding_window)
        if sinks is not None:
            check_shape("sinks", sinks, [heads], "[heads]")
            check_device("sinks", sinks, query.device)
        if own_key_mask is not None and own_key is None:
            raise ValueError("own_key_mask is given without own_key")
        if own_key is not None:
            check_mask("own_key_mask", own_key_mask, [batch, own_key.shape[2]], query.device, "[batch, own keys]")
            if own_key_mask is None and query_mask is not None and own_key.shape[2] == window:
                own_key_mask = query_mask
        return cls(
            query=query,
            key=key,
            scaling=float(scaling),
            own_key=own_key,
            own_key_mask=own_key_mask,
            reduce_queries=reduce_queries,
            reduce_heads=reduce_heads,
            head_reduction=head_reduction,
            row_weights=_row_weights(query, query_weights, query_mask),
            head_mask=head_mask,
            key_mask=key_mask,
            softcap=softcap,
            sliding_window=sliding_window,
            sinks=sinks,
            causal=causal,
        )


def _row_weights(query: Tensor, weights: Tensor | None, mask: Tensor | None) -> Tensor | None:
    batch, _, window, _ = query.shape
    if weights is not None:
        shape = [window] if weights.ndim == 1 else [batch, window]
        check_shape("query_weights", weights, shape, "[window] or [batch, window]")
        check_device("query_weights", weights, query.device)
        # On a GPU the check would wait for the device, in every layer of every pass.
        if weights.device.type == "cpu" and bool((weights < 0).any()):
            raise ValueError("query_weights has negative entries; it must be non-negative")
        weights = weights.float().expand(batch, window)
    if mask is None:
        return weights
    if weights is None:
        return mask.float()
    return weights.masked_fill(~mask, 0.0)
