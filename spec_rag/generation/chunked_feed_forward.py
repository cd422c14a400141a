"""Long prefills in less memory: the feed-forward layers read a prompt in chunks, the attention all of it.

A feed-forward layer takes each token by itself and is the widest part of a model, so it holds most of the memory of a
long prefill; in chunks it gives the same tokens. The attention needs all tokens at once to be scored, and holds one
layer's keys and values at a time where the cache is pruned. This module does not know prompts or caches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from spec_rag.errors import UnsupportedModelError
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.forking import renew_in_children
from spec_rag.utils.switches import Scoped, Switch

_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe")

_chunk_tokens: Scoped[int] = Scoped("spec_rag_chunk_tokens")


@dataclass(eq=False)
class _Switched:
    """A layer whose `forward` reads in chunks, its own `forward` if it has one, and the blocks that hold it.

    Attributes:
        holders: per block the identifier of the thread that is in it.
    """

    layer: nn.Module
    own: Any
    holders: dict[object, int] = field(default_factory=dict)


_switching = FairLock(is_work=False)
_switched: dict[int, _Switched] = {}  # by the id of the layer


def chunked_feed_forward(models: Sequence[PreTrainedModel | None], tokens: int | None) -> Switch[None]:
    """Inside the block, let the feed-forward layers of the models read so many tokens at a time in this thread.

    Args:
        models: those that will run; None is left out.
        tokens: of a chunk; None leaves everything as it is.

    Raises:
        UnsupportedModelError: a model has no feed-forward layers that can be found.
    """
    if tokens is None:
        return _Chunked([], None)
    layers = {id(layer): layer for model in models if model is not None for layer in _feed_forward(model)}
    return _Chunked(list(layers.values()), tokens)


class _Chunked(Switch[None]):
    """Switches layers to reading in chunks, and back."""

    def __init__(self, layers: Sequence[nn.Module], tokens: int | None) -> None:
        self._layers = layers
        self._holder = object()
        self._setting = None if tokens is None else _chunk_tokens.set(tokens)
        self._turn = _switching.hold()

    def _on(self) -> None:
        if self._setting is None:
            return
        self._turn.__enter__()
        for layer in self._layers:
            switched = _switched.setdefault(id(layer), _Switched(layer, layer.__dict__.get("forward")))
            switched.holders[self._holder] = threading.get_ident()
            if not isinstance(layer.forward, _InChunks):
                layer.forward = _InChunks(layer.forward)
        self._turn.__exit__(None, None, None)
        self._setting.__enter__()

    def _off(self) -> None:
        if self._setting is not None:
            self._setting.__exit__(None, None, None)
        self._turn.__enter__()
        _release([self._holder])
        self._turn.__exit__(None, None, None)


def _release(holders: Sequence[object]) -> None:
    """Give the layers back their own `forward` that no block holds any more; in a turn of `_switching`."""
    for key, switched in list(_switched.items()):
        for holder in holders:
            switched.holders.pop(holder, None)
        if switched.holders:
            continue
        if switched.own is None:
            switched.layer.__dict__.pop("forward", None)
        else:
            switched.layer.forward = switched.own
        _switched.pop(key, None)


class _OtherThreads:
    """The blocks of threads that are not in a forked child."""

    def renew_in_child(self) -> None:
        """Give their layers back their own `forward`."""
        held = {one: thread for switched in _switched.values() for one, thread in switched.holders.items()}
        _release([one for one, thread in held.items() if thread != threading.get_ident()])


_other_threads = _OtherThreads()
renew_in_children(_other_threads)


def _feed_forward(model: PreTrainedModel) -> list[nn.Module]:
    decoder: Any = model.get_decoder()
    found = [getattr(layer, name, None) for layer in getattr(decoder, "layers", ()) for name in _NAMES]
    layers = [layer for layer in found if isinstance(layer, nn.Module)]
    if not layers:
        raise UnsupportedModelError(
            f"prefill_chunk_size: no layer of {type(model).__name__} has a part named {', '.join(_NAMES)} that could "
            "read a prompt in chunks: leave it out."
        )
    return layers


class _InChunks:
    """A layer's `forward`, which reads the tokens in chunks where this thread asks for it."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        size = _chunk_tokens.get()
        if size is None or hidden.ndim != 3 or hidden.shape[1] <= size or args or kwargs:
            return self._forward(hidden, *args, **kwargs)
        output = None
        for start in range(0, hidden.shape[1], size):
            part = self._forward(hidden[:, start : start + size])
            if not isinstance(part, Tensor):  # such as the router's logits beside it
                return self._forward(hidden)
            if output is None:
                output = part.new_empty(*hidden.shape[:2], part.shape[-1])
            output[:, start : start + size] = part
        return output
