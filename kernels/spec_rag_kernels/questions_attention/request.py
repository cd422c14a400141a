"""Validated arguments of one questions_attention call, shared by all backends."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spec_rag_kernels.checks import check_device, check_dtype, check_float, check_grouped_heads, check_mask, check_shape


@dataclass(frozen=True)
class QuestionsRequest:
    """The arguments of `questions_attention`, with the same shapes.

    Raises:
        ValueError: an argument is invalid; the message names the first one.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    own_key: Tensor
    own_value: Tensor
    lengths: Sequence[int]
    scaling: float
    hidden: Tensor | None = None
    with_scores: bool = True

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def shared_keys(self) -> int:
        """Number of shared keys, n."""
        return self.key.shape[2]

    @cached_property
    def keys(self) -> Tensor:
        """[1, kv, n + w, d]: the shared keys, then the questions' own, in a new tensor."""
        return torch.cat([self.key, self.own_key], dim=2)

    @cached_property
    def values(self) -> Tensor:
        """[1, kv, n + w, d], in the order of `keys`."""
        return torch.cat([self.value, self.own_value], dim=2)

    @cached_property
    def visible(self) -> Tensor:
        """bool [w, n + w]: the keys that each query attends to."""
        device, width = self.query.device, self.query.shape[2]
        question = torch.arange(len(self.lengths), device=device).repeat_interleave(
            torch.tensor(self.lengths, device=device)
        )
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        own = (question[:, None] == question) & causal
        shared = torch.ones(width, self.shared_keys, dtype=torch.bool, device=device)
        return torch.cat([shared if self.hidden is None else ~self.hidden, own], dim=1)

    def __post_init__(self) -> None:
        query, key = self.query, self.key
        check_shape("query", query, [1, None, None, None], "[1, heads, queries, dim]")
        check_float("query", query)
        _, heads, width, dim = query.shape
        check_shape("key", key, [1, None, None, dim], "[1, KV heads, keys, dim]")
        check_grouped_heads(heads, key.shape[1])
        check_shape("value", self.value, key.shape, "of key's shape")
        own = {"own_key": self.own_key, "own_value": self.own_value}
        for name, tensor in own.items():
            check_shape(name, tensor, [1, key.shape[1], width, dim], "[1, KV heads, queries, dim]")
        for name, tensor in {"key": key, "value": self.value, **own}.items():
            check_dtype(name, tensor, query.dtype)
            check_device(name, tensor, query.device)
        check_mask("hidden", self.hidden, [width, self.shared_keys], query.device, "[queries, keys]")
        if any(length < 1 for length in self.lengths) or sum(self.lengths) != width:
            raise ValueError(f"lengths is {list(self.lengths)}; it must be positive and sum to the {width} queries")
