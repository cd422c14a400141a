"""One call of vertical_slash_attention with its arguments checked, as every backend takes it."""

from dataclasses import dataclass
from functools import cached_property

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
    """The arguments of `vertical_slash_attention`, with shapes as there.

    Raises:
        ValueError: an argument does not fit the others; the message names the first one.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    columns: Tensor
    slash: int
    scaling: float
    softcap: float | None = None
    sliding_window: int | None = None
    sinks: Tensor | None = None
    key_mask: Tensor | None = None

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def band(self) -> int:
        """The width of the band, no wider than the tokens."""
        return min(self.slash, self.query.shape[2])

    @cached_property
    def sorted_columns(self) -> Tensor:
        """int64 [batch, KV heads, columns], ascending."""
        return self.columns.sort(dim=-1).values

    def __post_init__(self) -> None:
        query, key, columns = self.query, self.key, self.columns
        check_float("query", query)
        check_shape("query", query, [None] * 4, "[batch, heads, tokens, dim]")
        batch, heads, tokens, dim = query.shape
        check_shape("key", key, [batch, None, tokens, dim], "[batch, kv heads, tokens, dim]")
        key_heads = key.shape[1]
        check_grouped_heads(heads, key_heads)
        check_shape("value", self.value, [batch, key_heads, tokens, dim], "[batch, kv heads, tokens, dim]")
        for name, tensor in (("key", key), ("value", self.value)):
            check_dtype(name, tensor, query.dtype)
            check_device(name, tensor, query.device)
        if columns.ndim != 3 or columns.shape[:2] != (batch, key_heads):
            raise ValueError(f"columns has shape {tuple(columns.shape)}; it must be [{batch}, {key_heads}, columns]")
        check_dtype("columns", columns, torch.int64)
        check_device("columns", columns, query.device)
        if self.slash < 1:
            raise ValueError(f"slash is {self.slash}; it must be at least 1, so that a query sees itself")
        check_positive("softcap", self.softcap)
        check_positive("sliding_window", self.sliding_window)
        if self.sinks is not None:
            check_shape("sinks", self.sinks, [heads], "[heads]")
            check_device("sinks", self.sinks, query.device)
        check_mask("key_mask", self.key_mask, [batch, tokens], query.device, "[batch, tokens]")
        if columns.device.type == "cpu" and columns.numel():
            if int(columns.min()) < 0 or int(columns.max()) >= tokens:
                raise ValueError(f"columns has positions outside 0..{tokens - 1}")
            if bool((self.sorted_columns.diff(dim=-1) == 0).any()):
                raise ValueError("columns has a position twice; each must stand once per KV head")
