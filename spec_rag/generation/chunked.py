"""Long prefills in less memory: the feed-forward layers read a prompt in chunks, the attention all of it.

A feed-forward layer takes each token by itself and is the widest part of a model, so it holds most of the memory of a
long prefill; in chunks it gives the same tokens. The attention needs all tokens at once to be scored, and holds one
layer's keys and values at a time where the cache is pruned. This module does not know prompts or caches.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from spec_rag.errors import UnsupportedModelError

_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe")

_chunk_tokens: ContextVar[int | None] = ContextVar("spec_rag_chunk_tokens", default=None)
_switch_lock = threading.Lock()
_switched: dict[int, tuple[int, Any]] = {}  # id of a layer -> how many blocks hold it, its own `forward` if it has one


@contextlib.contextmanager
def chunked_feed_forward(models: Sequence[PreTrainedModel | None], tokens: int | None) -> Iterator[None]:
    """Inside the block, let the feed-forward layers of the models read so many tokens at a time in this thread.

    Args:
        models: those that will run; None is left out.
        tokens: of a chunk; None leaves everything as it is.

    Raises:
        UnsupportedModelError: a model has no feed-forward layers that can be found.
    """
    if tokens is None:
        yield
        return
    layers = {id(layer): layer for model in models if model is not None for layer in _feed_forward(model)}.values()
    with _switch_lock:
        for layer in layers:
            holders, own = _switched.get(id(layer), (0, layer.__dict__.get("forward")))
            if not holders:
                layer.forward = _in_chunks(layer.forward)
            _switched[id(layer)] = (holders + 1, own)
    token = _chunk_tokens.set(tokens)
    try:
        yield
    finally:
        _chunk_tokens.reset(token)
        with _switch_lock:
            for layer in layers:
                holders, own = _switched[id(layer)]
                if holders > 1:
                    _switched[id(layer)] = (holders - 1, own)
                    continue
                del _switched[id(layer)]
                if own is None:
                    del layer.forward
                else:
                    layer.forward = own


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


def _in_chunks(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        size = _chunk_tokens.get()
        if size is None or hidden.ndim != 3 or hidden.shape[1] <= size or args or kwargs:
            return forward(hidden, *args, **kwargs)
        output = None
        for start in range(0, hidden.shape[1], size):
            part = forward(hidden[:, start : start + size])
            if not isinstance(part, Tensor):  # such as the router's logits beside it
                return forward(hidden)
            if output is None:
                output = part.new_empty(*hidden.shape[:2], part.shape[-1])
            output[:, start : start + size] = part
        return output

    return run
