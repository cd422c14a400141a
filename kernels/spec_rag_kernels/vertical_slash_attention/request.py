"""Validated arguments of one vertical_slash_attention call, shared by all backends."""

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
    check_sinks,
)


@dataclass(frozen=True)
class VerticalSlashRequest:
    """The arguments of `vertical_slash_attention`, with the same shapes.

    Raises:
        ValueError: an argument is invalid; the message names the first one.
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
        """Width of the band, at most the number of tokens."""
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
            raise ValueError(f"slash is {self.slash}; it must be at least 1, so that a query attends to itself")
        check_positive("softcap", self.softcap)
        check_positive("sliding_window", self.sliding_window)
        check_sinks(self.sinks, heads, query.device)
        check_mask("key_mask", self.key_mask, [batch, tokens], query.device, "[batch, tokens]")
        # On a GPU the check would synchronize with the device.
        if columns.device.type == "cpu" and columns.numel():
            first, last = int(columns.min()), int(columns.max())
            if first < 0 or last >= tokens:
                raise ValueError(f"columns has positions from {first} to {last}; they must be in [0, {tokens})")
            if bool((self.sorted_columns.diff(dim=-1) == 0).any()):
                raise ValueError("columns has a position twice; positions must be unique per KV head")
