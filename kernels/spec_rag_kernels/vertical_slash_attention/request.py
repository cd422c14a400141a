"""One call of vertical_slash_attention with its arguments checked and its columns sorted, as every backend takes it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spec_rag_kernels.checks import (
    check_device,
    check_dtype,
    check_float,
    check_grouped_heads,
    check_mask,
    check_positive,
    check_shape,
)


@dataclass(frozen=True)
class VerticalSlashRequest:
    """Shapes as in `vertical_slash_attention`; `columns` int64 [b, kv, v] is sorted ascending."""

    query: Tensor
    key: Tensor
    value: Tensor
    columns: Tensor
    slash: int
    scaling: float
    softcap: float | None
    sliding_window: int | None
    sinks: Tensor | None
    key_mask: Tensor | None

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
        value: Tensor,
        columns: Tensor,
        slash: int,
        scaling: float,
        softcap: float | None,
        sliding_window: int | None,
        sinks: Tensor | None,
        key_mask: Tensor | None,
    ) -> "VerticalSlashRequest":
        """The request of these arguments; raises ValueError naming the first one that does not fit."""
        check_float("query", query)
        check_shape("query", query, [None] * 4, "[batch, heads, tokens, dim]")
        batch, heads, tokens, dim = query.shape
        check_shape("key", key, [batch, None, tokens, dim], "[batch, kv heads, tokens, dim]")
        key_heads = key.shape[1]
        check_grouped_heads(heads, key_heads)
        check_shape("value", value, [batch, key_heads, tokens, dim], "[batch, kv heads, tokens, dim]")
        for name, tensor in (("key", key), ("value", value)):
            check_dtype(name, tensor, query.dtype)
            check_device(name, tensor, query.device)
        if columns.ndim != 3 or columns.shape[:2] != (batch, key_heads):
            raise ValueError(f"columns has shape {tuple(columns.shape)}; it must be [{batch}, {key_heads}, columns]")
        check_dtype("columns", columns, torch.int64)
        check_device("columns", columns, query.device)
        if slash < 1:
            raise ValueError(f"slash is {slash}; it must be at least 1, so that a query sees itself")
        check_positive("softcap", softcap)
        check_positive("sliding_window", sliding_window)
        if sinks is not None:
            check_shape("sinks", sinks, [heads], "[heads]")
            check_device("sinks", sinks, query.device)
        check_mask("key_mask", key_mask, [batch, tokens], query.device, "[batch, tokens]")
        columns = columns.sort(dim=-1).values
        if columns.device.type == "cpu" and columns.numel():
            if int(columns.min()) < 0 or int(columns.max()) >= tokens:
                raise ValueError(f"columns has positions outside 0..{tokens - 1}")
            if bool((columns.diff(dim=-1) == 0).any()):
                raise ValueError("columns has a position twice; each must stand once per KV head")
        return cls(
            query=query,
            key=key,
            value=value,
            columns=columns,
            slash=min(slash, tokens),
            scaling=float(scaling),
            softcap=softcap,
            sliding_window=sliding_window,
            sinks=sinks,
            key_mask=key_mask,
        )
