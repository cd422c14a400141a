"""Long prefills in less memory: the feed-forward layers process a prompt in chunks of tokens.

A feed-forward layer treats each token alone and is the widest part of a model, so its activations are most of the
memory of a long prefill. Chunks give the same tokens. Attention is not chunked, since its scores need all keys.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from spec_rag.errors import UnsupportedModelError
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.forking import renew_in_children
from spec_rag.utils.switches import Switch

_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe")

_switching = FairLock(is_work=False)


def chunked_feed_forward(models: Sequence[PreTrainedModel | None], tokens: int | None) -> Switch[None]:
    """Inside the block, the models' feed-forward layers process at most `tokens` tokens at a time in this thread.

    Args:
        models: the models that will run; None is ignored.
        tokens: tokens of a chunk; None changes nothing.

    Raises:
        UnsupportedModelError: a model has no feed-forward layers under a known name.
    """
    layers = [] if tokens is None else [layer for model in models if model is not None for layer in _layers_of(model)]
    return _Chunked(layers, tokens or 0)


class _Chunked(Switch[None]):
    """Switches layers to chunks, and back."""

    def __init__(self, layers: Sequence[nn.Module], tokens: int) -> None:
        self._layers = layers
        self._tokens = tokens
        self._block = object()
        self._turn = _switching.hold()

    def _on(self) -> None:
        self._turn.__enter__()
        for layer in self._layers:
            forward = layer.__dict__.get("forward")
            chunks = forward if isinstance(forward, _ForwardInChunks) else _ForwardInChunks(layer)
            chunks.blocks[self._block] = (threading.get_ident(), self._tokens)
            layer.forward = chunks
        self._turn.__exit__(None, None, None)

    def _off(self) -> None:
        self._turn.__enter__()
        for layer in self._layers:
            forward = layer.__dict__.get("forward")
            if isinstance(forward, _ForwardInChunks):
                forward.release([self._block])
        self._turn.__exit__(None, None, None)


class _ForwardInChunks:
    """Replacement of a layer's `forward`, in place as long as a block needs it.

    Attributes:
        blocks: per `with` block its thread and its number of tokens, innermost last.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.blocks: dict[object, tuple[int, int]] = {}
        self._layer = layer
        self._instance_forward = layer.__dict__.get("forward")  # such as accelerate's hooks
        self._forward = layer.forward
        renew_in_children(self)

    def release(self, blocks: Sequence[object]) -> None:
        """Forget these blocks; without any the layer gets its own `forward` back. `_switching` is held."""
        for block in blocks:
            self.blocks.pop(block, None)
        if self.blocks or self._layer.__dict__.get("forward") is not self:
            return
        if self._instance_forward is None:
            del self._layer.__dict__["forward"]
        else:
            self._layer.forward = self._instance_forward

    def renew_in_child(self) -> None:
        """Forget the blocks of threads that do not exist in a forked child."""
        self.release([block for block, (thread, _) in self.blocks.items() if thread != threading.get_ident()])

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        thread = threading.get_ident()
        sizes = [tokens for owner, tokens in list(self.blocks.values()) if owner == thread]
        if not sizes or hidden.ndim != 3 or hidden.shape[1] <= sizes[-1] or args or kwargs:
            return self._forward(hidden, *args, **kwargs)
        output = None
        for start in range(0, hidden.shape[1], sizes[-1]):
            part = self._forward(hidden[:, start : start + sizes[-1]])
            if not isinstance(part, Tensor):  # a tuple, such as one with a router's logits
                return self._forward(hidden)
            if output is None:
                output = part.new_empty(*hidden.shape[:2], part.shape[-1])
            output[:, start : start + sizes[-1]] = part
        return output


def _layers_of(model: PreTrainedModel) -> list[nn.Module]:
    decoder: Any = model.get_decoder()
    parts = [getattr(layer, name, None) for layer in getattr(decoder, "layers", ()) for name in _NAMES]
    layers = [part for part in parts if isinstance(part, nn.Module)]
    if not layers:
        raise UnsupportedModelError(
            f"prefill_chunk_size: no layer of {type(model).__name__} has a part named {', '.join(_NAMES)} that could "
            "read a prompt in chunks: leave it out."
        )
    return layers
