"""Let an observer see every attention call of a transformers model, for the length of a `with` block.

One mechanism serves every architecture that goes through transformers' attention interface. This module knows how
that interface is switched and restored; it does not know what observers do with what they see.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spec_rag.errors import UnsupportedModelError

_PREFIX = "spec_rag_observed_"


@dataclass(frozen=True)
class AttentionCall:
    """What one layer hands to its attention function, after rotary embedding.

    Attributes:
        layer: index of the layer.
        query: [batch, heads, queries, dim].
        key: [batch, KV heads, keys, dim]; the last `queries` keys are the queries' own.
        value: [batch, KV heads, keys, dim].
        mask: what the model made for its attention implementation, or None.
        scaling: factor of the logits.
        softcap: soft cap of the logits, or None.
        sliding_window: number of keys a query sees, itself included, or None.
        sinks: [heads], an extra logit of each head in the softmax, or None.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    scaling: float
    softcap: float | None
    sliding_window: int | None
    sinks: Tensor | None


class AttentionObserver(Protocol):
    """Sees each attention call before it runs.

    Returns None to let it run as it is, a mask to let it run with that mask, or, as `Replaced`, its output.
    """

    def __call__(self, call: AttentionCall) -> Tensor | Replaced | None:
        """Look at one call of one layer."""
        ...


@dataclass(frozen=True)
class Replaced:
    """Attention output [batch, heads, queries, dim] that stands in for the model's own."""

    output: Tensor


_observers: ContextVar[Mapping[int, AttentionObserver]] = ContextVar("spec_rag_observers", default={})  # noqa: B039
_switch_lock = threading.Lock()
_switched: dict[int, tuple[int, str]] = {}  # id of a config -> how many captures hold it, its own implementation


def _base_forward(name: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    if name == "eager":
        # transformers keeps eager attention beside each model, not in the registry
        return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[name]  # type: ignore[no-any-return]


def _observed(base_name: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        base = _base_forward(base_name, module)
        observer = _observers.get().get(id(getattr(module, "config", None)))
        if observer is None:
            return base(module, query, key, value, attention_mask, **kwargs)
        if kwargs.get("position_bias") is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} adds a position bias to its attention logits, which the scores do not "
                "follow: use a model without one."
            )
        scaling = kwargs.get("scaling")
        call = AttentionCall(
            layer=int(module.layer_idx),  # type: ignore[arg-type]
            query=query,
            key=key,
            value=value,
            mask=attention_mask,
            scaling=float(scaling) if scaling is not None else query.shape[-1] ** -0.5,
            softcap=kwargs.get("softcap"),
            sliding_window=kwargs.get("sliding_window"),
            sinks=kwargs.get("s_aux"),
        )
        seen = observer(call)
        if isinstance(seen, Replaced):
            return seen.output.transpose(1, 2).contiguous(), None
        return base(module, query, key, value, attention_mask if seen is None else seen, **kwargs)

    return forward


def _register(base_name: str) -> str:
    name = _PREFIX + base_name
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _observed(base_name))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base_name])
    return name


def attention_configs(model: nn.Module) -> list[Any]:
    """The distinct config objects that the model's decoder layers consult for their attention function."""
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    configs = {
        id(module.config): module.config
        for module in decoder.modules()
        if hasattr(module, "layer_idx") and hasattr(module, "config")
    }
    # the masks are made by the decoder, from its own config, and must match the attention function
    own = getattr(decoder, "config", None)
    if own is not None:
        configs[id(own)] = own
    return list(configs.values())


def base_attention(model: nn.Module) -> str:
    """The attention implementation that the model runs with, captured or not."""
    config = attention_configs(model)[0]
    with _switch_lock:
        held = _switched.get(id(config))
    return held[1] if held else str(config._attn_implementation)


@contextlib.contextmanager
def capture(model: PreTrainedModel, observer: AttentionObserver) -> Iterator[None]:
    """Show `observer` each attention call that this thread or task makes on `model` inside the block.

    Other threads may run the same model meanwhile, captured by other observers or by none. The model is as before when
    the last capture of it ends, also after an exception.

    Raises:
        UnsupportedModelError: the model's attention does not go through transformers' attention interface.
    """
    configs = attention_configs(model)
    if not configs or not hasattr(configs[0], "_attn_implementation"):
        raise UnsupportedModelError(
            f"{type(model).__name__} does not use transformers' attention interface: its attention cannot be observed."
        )
    with _switch_lock:
        for config in configs:
            holders, base_name = _switched.get(id(config), (0, config._attn_implementation or "eager"))
            if holders == 0:
                config._attn_implementation = _register(base_name)
            _switched[id(config)] = (holders + 1, base_name)
    token = _observers.set({**_observers.get(), **{id(config): observer for config in configs}})
    try:
        yield
    finally:
        _observers.reset(token)
        with _switch_lock:
            for config in configs:
                holders, base_name = _switched[id(config)]
                if holders == 1:
                    del _switched[id(config)]
                    config._attn_implementation = base_name
                else:
                    _switched[id(config)] = (holders - 1, base_name)
